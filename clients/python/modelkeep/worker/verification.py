"""Whether a module, or every module of a pipeline, still is the loader's memory, and which memory that is."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modelkeep.exceptions import InvalidModelException

#: Attribute of an attached module: parameter name → address that the parameter must keep.
ADDRESSES = "_modelkeep_addresses"
#: What an adapter (peft's, such as a LoRA's) calls the layer that it stands around.
_WRAPPED = ".base_layer"


def verify_attachment(module: Any) -> None:
    """Check that every parameter still is lent memory, and that none of it was written to.

    Call it where a silent private copy would hurt: after ``.to(dtype)``, ``fuse_…``, or other surgery. The
    parameters of adapters that stand beside lent layers, as ``load_lora_weights`` puts them, are their own;
    the layers that they stand around must be lent. It takes some ten milliseconds.

    Args:
        module: An attached module, also one that ``torch.compile`` has wrapped; or a pipeline, whose modules
            are all checked.

    Raises:
        InvalidModelException: A parameter was replaced, moved, written to, or is new; or a module was never
            attached.
    """
    parts = list(_parts(module))
    for name, part in parts:
        _refuse_strays(name, part)
    _refuse_written([address for _, part in parts for address in part.__dict__[ADDRESSES].values()])


def mapped_memory(module: Any) -> tuple[int, int]:
    """Device and inode of the lent memory that an attached module lies in, as /proc/self/maps shows it.

    Raises:
        InvalidModelException: The parameters do not all lie in one mapped memfd.
    """
    found: set[tuple[int, int]] = set()
    for name, part in _parts(module):
        _refuse_strays(name, part)
        found |= {place[:2] for place in _mappings(part.__dict__[ADDRESSES].values(), "maps")}
    if len(found) != 1 or 0 in {inode for _, inode in found}:
        raise InvalidModelException("The module's parameters do not lie in one lent mapping.")
    return found.pop()


def _parts(module: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The attached modules of a module or pipeline, by name; one alone has none."""
    if isinstance(module, torch.nn.Module):
        parts: Mapping[str, Any] = {"": module}
    else:
        parts = getattr(module, "components", {})
    modules = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    for name, part in modules.items():
        original = getattr(part, "_orig_mod", part)  # torch.compile's wrapper
        if ADDRESSES not in original.__dict__:
            raise InvalidModelException(
                f"The {name} was not made by modelkeep.worker.attach."
                if name
                else "This module was not made by modelkeep.worker.attach."
            )
        yield name, original
    if not modules:
        raise InvalidModelException("Neither a module nor a pipeline with modules was given.")


def _refuse_strays(of: str, module: torch.nn.Module) -> None:
    addresses: Mapping[str, int] = module.__dict__[ADDRESSES]
    wrapped = tuple(
        f"{name.removesuffix(_WRAPPED)}." for name, _ in module.named_modules() if name.endswith(_WRAPPED)
    )
    present: dict[str, int] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name.startswith(wrapped):
            if f"{_WRAPPED}." not in name:
                continue  # an adapter's own
            name = name.replace(_WRAPPED, "")
        present[name] = parameter.data_ptr()
    if present != addresses:
        strays = sorted(n for n in present.keys() | addresses.keys() if present.get(n) != addresses.get(n))
        shown = ", ".join(strays[:3]) + (" …" if len(strays) > 3 else "")
        raise InvalidModelException(
            f"{len(strays)} parameters{f' of the {of}' if of else ''} are no longer the loader's memory but "
            f"private copies: {shown}.",
            metadata={"detail": f"detached parameters: {len(strays)}"},
        )


def _refuse_written(addresses: Iterable[int]) -> None:
    """A write to lent memory is seen by its writer alone: the kernel has copied the pages for it."""
    written = sum(size for _, _, size in _mappings(addresses, "smaps"))
    if written:
        raise InvalidModelException(
            f"{written:,} bytes of lent weights were written to, and are private copies now.",
            metadata={"detail": f"written bytes: {written}"},
        )


def _mappings(addresses: Iterable[int], file: str) -> Iterator[tuple[int, int, int]]:
    """Device, inode and privately copied bytes (of smaps) of each mapping that has one of the addresses."""
    wanted = sorted(addresses)
    device = inode = 0
    inside = False
    try:
        lines = Path("/proc/self", file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux, or no /proc
        return
    for line in lines:
        name, _, rest = line.partition(" ")
        if name.endswith(":"):
            if inside and name == "Anonymous:":
                yield device, inode, int(rest.split()[0]) * 1024
            continue
        low, high = (int(part, 16) for part in name.split("-"))
        first = bisect.bisect_left(wanted, low)
        inside = first < len(wanted) and wanted[first] < high
        if inside:
            _mode, _offset, place, number, *_ = rest.split(maxsplit=4)
            major, minor = (int(part, 16) for part in place.split(":"))
            device, inode = os.makedev(major, minor), int(number)
            if file == "maps":
                yield device, inode, 0
