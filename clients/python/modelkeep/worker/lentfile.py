"""A lent file, mapped: its header, and tensors that are views of one mapping.

The stock safetensors library would do; it makes each tensor by six calls of torch, and a UNet has thousands
of them. Here it is one: a view of the one storage that the whole file is mapped as. Of a file whose first
bytes lie on an accelerator there are two such storages, one there and one in host memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

import torch

from modelkeep.dtypes import DTYPES as FILE_DTYPES
from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import MAX_HEADER_BYTES

if TYPE_CHECKING:  # who only reads files gets along without the drivers of accelerators
    from modelkeep.worker.devicepart import DevicePart

#: Code of a file → torch's dtype, of those that this torch has.
TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = {
    code: getattr(torch, dtype.name) for code, dtype in FILE_DTYPES.items() if hasattr(torch, dtype.name)
}


class LentFile:
    """The memory behind a descriptor, mapped privately, for as long as one of its tensors lives.

    Args:
        descriptor: Open descriptor of a lent safetensors file. It may be closed afterwards.
        device: What of the file lies on an accelerator: its tensors come from there. Where that is all of
            it, the descriptor needs no more than the file's header.

    Attributes:
        metadata: The free text of the header.
        host: The whole of a file that lies on an accelerator in part, in host memory, as a row of bytes; None
            for any other.

    Raises:
        InvalidModelException: It is no safetensors file.
    """

    def __init__(self, descriptor: int, device: DevicePart | None = None) -> None:
        # It is opened anew by name, and another worker may have taken the right to that away.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # fails for any other file, which is left as it is
            os.fchmod(descriptor, 0o400)
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _broken("it is shorter than it says")
        try:
            self._entries: dict[str, Any] = json.loads(os.pread(descriptor, length, 8))
            self.metadata: Mapping[str, str] = self._entries.pop("__metadata__", None) or {}
        except (ValueError, AttributeError, TypeError):
            raise _broken("its header is not JSON") from None
        self._start = 8 + length
        self.host: torch.Tensor | None = None
        self._there: _Rows | None = None
        self._reach = 0
        if device is None:
            self._here = _Rows(_mapped(descriptor, size))
            return
        self._there = _Rows(device.base)
        self._reach = device.size_bytes
        if size > self._reach:
            self.host = device.rest_of(descriptor)
        self._here = _Rows(self.host if self.host is not None else torch.empty(0, dtype=torch.uint8))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor by its name, in the order of the header.

        Raises:
            InvalidModelException: An entry does not fit the file.
        """
        strides: dict[tuple[int, ...], tuple[int, ...]] = {}
        for name, entry in self._entries.items():
            code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            last = self._start + end
            rows = self._there if self._there is not None and last <= self._reach else self._here
            base, item = rows[code]
            if (steps := strides.get(shape)) is None:
                steps = strides[shape] = contiguous_strides(shape)
            place, rest = divmod(self._start + begin, item)
            if rest or end - begin != prod(shape) * item or begin < 0 or last > rows.size_bytes:
                raise _broken(f"{name} does not lie where it should")
            yield name, base.as_strided(shape, steps, place)


class _Rows(dict[str, tuple[torch.Tensor, int]]):
    """Memory as one row of elements for each dtype, by the dtype's code, and the bytes of one element."""

    def __init__(self, base: torch.Tensor) -> None:
        self._base = base
        self.size_bytes = base.numel()

    def __missing__(self, code: str) -> tuple[torch.Tensor, int]:
        dtype = TORCH_DTYPES.get(code)
        if dtype is None:
            raise _broken(f"this version of torch has no dtype {code}")
        item = dtype.itemsize
        row = self[code] = self._base[: self.size_bytes // item * item].view(dtype), item
        return row


def _mapped(descriptor: int, size_bytes: int) -> torch.Tensor:
    """A file's bytes, private and writable: a write copies the one page, for this process only."""
    storage: Any = torch.UntypedStorage.from_file(f"/proc/self/fd/{descriptor}", False, size_bytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size_bytes,), (1,))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one entry to the next in each dimension, the last one closest together."""
    steps: list[int] = []
    step = 1
    for length in reversed(shape):
        steps.append(step)
        step *= max(length, 1)
    return tuple(reversed(steps))


def _broken(detail: str) -> InvalidModelException:
    return InvalidModelException(
        f"The lent memory is no safetensors file that can be read: {detail}.",
        metadata={"detail": detail},
        remedy="Loader and worker must have the same version of modelkeep; otherwise report this as a bug.",
    )
