"""Memory on a device that layers take in turn, to have weights there that lie in host memory.

What makes it safe is that memory is never taken for another layer while anybody has a tensor in it, be it the
one that a layer hands out, a view of that, or what autograd keeps: each use of the memory has a storage of
its own, and when that has died nobody can reach it any more. What lanes know of who runs and who comes next
decides only how long one waits.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch

from modelkeep.worker.devicepart import DevicePart

#: Where each weight begins: torch's own allocator does likewise, and kernels are chosen by alignment.
_ALIGNMENT: Final = 512


class _Place(NamedTuple):
    """One weight of a layer: its bytes in host memory, and what it is at which place on the device."""

    source: torch.Tensor
    begin: int
    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]


class Layer:
    """What one layer needs to have copied.

    Args:
        weights: Its weights in host memory, by name.
        host: The memory that they all lie in, as one row of bytes.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], host: torch.Tensor) -> None:
        self.places: dict[str, _Place] = {}
        end = 0
        for name, weight in weights.items():
            first, size = weight.data_ptr() - host.data_ptr(), weight.numel() * weight.element_size()
            source = host[first : first + size]
            self.places[name] = _Place(source, end, weight.dtype, weight.shape, weight.stride())
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.size_bytes = end


class Lane:
    """The memory of one thread: of two layers, and of more where more run within each other.

    Args:
        device: Where.
    """

    def __init__(self, device: DevicePart) -> None:
        self._device = device
        self._pace = _CopyStream(device.torch_device) if device.torch_device.type == "cuda" else _InOrder()
        self._slots = [_Slot(), _Slot()]
        self._running: set[Layer] = set()
        self._next: dict[Layer, Layer] = {}
        self._last: Layer | None = None

    @property
    def slots(self) -> int:
        """Of how many layers it has memory."""
        return len(self._slots)

    def enter(self, layer: Layer) -> None:
        """A layer is about to run: have its weights there, and begin with those of the next one."""
        self._running.add(layer)
        self.weights(layer)

    def leave(self, layer: Layer) -> None:
        """It has run, or has failed."""
        self._running.discard(layer)

    def weights(self, layer: Layer) -> Mapping[str, torch.Tensor]:
        """A layer's weights on the device, by name."""
        slot = self._slot_of(layer)
        if slot is None:
            slot = self._free_slot(layer) or self._one_more()
            self._fill(slot, layer)
        self._pace.wait(slot.ready)
        if layer is not self._last:
            if self._last is not None:
                self._next[self._last] = layer
            self._last = layer
            self._begin_with_next(layer)
        return slot.weights

    def _begin_with_next(self, layer: Layer) -> None:
        """What came after it the last time will come after it again."""
        following = self._next.get(layer)
        if following is not None and self._slot_of(following) is None:
            slot = self._free_slot(layer)
            if slot is not None:
                self._fill(slot, following)

    def _slot_of(self, layer: Layer) -> _Slot | None:
        return next((slot for slot in self._slots if slot.layer is layer), None)

    def _free_slot(self, beside: Layer) -> _Slot | None:
        """The slot that was filled first of those whose layer does not run; that of one layer not at all."""
        idle = (s for s in self._slots if s.layer is not beside and s.layer not in self._running)
        return next(idle, None)

    def _one_more(self) -> _Slot:
        slot = _Slot()
        self._slots.append(slot)
        return slot

    def _fill(self, slot: _Slot, layer: Layer) -> None:
        self._slots.remove(slot)
        self._slots.append(slot)
        # What is made here outlives the caller's mode: it may be used under another.
        with torch.inference_mode(False), torch.no_grad():
            slot.fill(layer, self._device, self._pace)


class _Slot:
    """Memory of one layer at a time.

    Attributes:
        layer: Whose weights are there, or on their way; None before the first.
        weights: They.
        ready: When they are there.
    """

    def __init__(self) -> None:
        self.layer: Layer | None = None
        self.weights: Mapping[str, torch.Tensor] = {}
        self.ready: Any = None
        self._memory: torch.Tensor | None = None
        self._in_use: Any = lambda: None

    def fill(self, layer: Layer, device: DevicePart, pace: _CopyStream | _InOrder) -> None:
        """Begin to bring a layer's weights."""
        self.layer, self.weights = None, {}
        memory = self._memory
        if memory is None or memory.numel() < layer.size_bytes or self._in_use() is not None:
            memory = self._memory = pace.memory(layer.size_bytes)
        with pace.copying():
            for place in layer.places.values():
                target = memory[place.begin : place.begin + place.source.numel()]
                target.copy_(place.source, non_blocking=True)
        self.ready = pace.mark()
        self.weights = self._tensors_in(memory, layer, device)
        self.layer = layer

    def _tensors_in(self, memory: torch.Tensor, layer: Layer, device: DevicePart) -> dict[str, torch.Tensor]:
        """The weights, in a storage that lives as long as somebody has one of them."""
        row = device.bytes_at(memory.data_ptr(), memory.numel())
        storage: Any = row.untyped_storage()
        self._in_use = weakref.ref(storage)
        weakref.finalize(storage, _no_more, memory).atexit = False
        found: dict[str, torch.Tensor] = {}
        for name, (_, begin, dtype, shape, strides) in layer.places.items():
            item = dtype.itemsize
            typed = row[: row.numel() // item * item].view(dtype)
            view = typed.as_strided(shape, strides, begin // item)
            found[name] = torch.nn.Parameter(view, requires_grad=False)
        return found


class _InOrder:
    """A device that computes when it is told to, as the simulated one does: copies are there at once."""

    def memory(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copying(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def mark(self) -> None: ...

    def wait(self, ready: None) -> None: ...


class _CopyStream:
    """A CUDA device: copies have a stream of their own, beside the one that computes.

    Args:
        device: Which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        stream: Any = torch.cuda.Stream
        self._copies = stream(device)

    def memory(self, size_bytes: int) -> torch.Tensor:
        """Memory that the allocator gives to nobody else before the copies into it have ended."""
        made = torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        made.record_stream(self._copies)
        return made

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Copies begin once all that was begun on the device has ended: it may read what was there."""
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            yield

    def mark(self) -> Any:
        """When the copies until now are there."""
        return self._copies.record_event()

    def wait(self, ready: Any) -> None:
        """What computes from here on finds them there."""
        torch.cuda.current_stream(self._device).wait_event(ready)


def _no_more(memory: torch.Tensor) -> None:
    """A storage has died: its memory need not be kept for it any more."""
