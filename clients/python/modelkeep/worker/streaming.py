"""Modules of which an accelerator holds a part only: the rest is read from host memory while they run.

A layer whose weights are not on the device gets them there before it runs, in memory that the layers take in
turn. What is copied ahead is what came next the last time: from the second pass on one layer's weights are
copied while another layer computes. The parameters of the module stay the lent ones, in host memory; who
asks a layer for its weight gets it on the device, whoever that is and whenever.

Each thread has memory of its own for it, twice the bytes of the largest such layer, or a little more. It is
for modules that are called; torch.compile and CUDA graphs would keep the addresses of weights, and leave out
the copies.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from typing import Any

import torch

from modelkeep.worker.devicepart import DevicePart
from modelkeep.worker.lanes import Lane, Layer


def stream_weights(parts: Iterable[torch.nn.Module], host: torch.Tensor, device: DevicePart) -> None:
    """Have those weights of a module that lie in host memory brought to a device when they are needed.

    Args:
        parts: The module and all its parts.
        host: The memory, as one row of bytes.
        device: Where the others are.
    """
    lanes = _Lanes(device)
    first, end = host.data_ptr(), host.data_ptr() + host.numel()
    for part in parts:
        weights = {
            name: weight
            for name, weight in part._parameters.items()
            if weight is not None and first <= weight.data_ptr() < end
        }
        if weights:
            layer = Layer(weights, host)
            part.__dict__["_parameters"] = _Weights(part._parameters, weights, layer, lanes)
            part.register_forward_pre_hook(lambda part, given, layer=layer: lanes.lane.enter(layer))
            part.register_forward_hook(
                lambda part, given, output, layer=layer: lanes.lane.leave(layer), always_call=True
            )
        if isinstance(getattr(type(part), "device", None), property):
            plain: Any = type(part)
            part.__class__ = _computing_on(plain, device.torch_device)


class _Lanes(threading.local):
    """This thread's memory for what is streamed."""

    def __init__(self, device: DevicePart) -> None:
        self.lane = Lane(device)


class _Weights(dict[str, torch.nn.Parameter | None]):
    """A layer's parameters, of which some are fetched when one of them is looked up.

    Listed, they are those in host memory. What was put in place of one, or was done to its data, counts.
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter | None],
        lent: dict[str, torch.nn.Parameter],
        layer: Layer,
        lanes: _Lanes,
    ) -> None:
        super().__init__(parameters)
        self._lent = {name: (weight, weight.data_ptr()) for name, weight in lent.items()}
        self._layer = layer
        self._lanes = lanes

    def __getitem__(self, name: str) -> Any:
        here = super().__getitem__(name)
        lent, address = self._lent.get(name, (None, 0))
        if here is None or here is not lent or here.data_ptr() != address:
            return here
        return self._lanes.lane.weights(self._layer)[name]


@functools.cache
def _computing_on(plain: Any, device: torch.device) -> type[torch.nn.Module]:
    """The class, saying that it is on a device: libraries ask its first parameter, which may be streamed."""
    return type(
        plain.__name__, (plain,), {"device": property(lambda module: device), "__module__": plain.__module__}
    )
