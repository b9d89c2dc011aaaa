"""The driver of a kind of accelerators, chosen by its name."""

from __future__ import annotations

from .driver import Driver
from .specs import Spec


def open_driver(spec: str) -> Driver:
    """The driver for "cuda", for simulated accelerators ("sim:2x256MiB"), or for workers of these ("sim").

    Of a device's name, such as "cuda:0", the part before the colon is a spec for a worker.

    Raises:
        ValueError: The spec names no kind.
        DeviceGoneError: This process cannot use accelerators of that kind; the message says why.
    """
    wanted = Spec.parse(spec)
    if wanted.kind == "sim":
        from .simulated import Simulated

        return Simulated(wanted.sizes, wanted.faults)
    if wanted.kind == "cuda":
        from .cuda import Cuda

        return Cuda()
    raise ValueError(f"{spec!r} names no kind of accelerators.")
