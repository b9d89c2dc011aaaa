"""A lent file, mapped: its header, and tensors that are views of one mapping.

The stock safetensors library would do; it makes each tensor by six calls of torch, and a UNet has thousands
of them. Here it is one: a view of the one storage that the whole file is mapped as.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final

import torch

from modelkeep.dtypes import DTYPES as FILE_DTYPES
from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import MAX_HEADER_BYTES

#: Code of a file → torch's dtype, of those that this torch has.
TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = {
    code: getattr(torch, dtype.name) for code, dtype in FILE_DTYPES.items() if hasattr(torch, dtype.name)
}


class LentFile:
    """The memory behind a descriptor, mapped privately, for as long as one of its tensors lives.

    Args:
        descriptor: Open descriptor of a lent safetensors file. It may be closed afterwards.

    Attributes:
        metadata: The free text of the header.

    Raises:
        InvalidModelException: It is no safetensors file.
    """

    def __init__(self, descriptor: int) -> None:
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
        # Private and writable: a write copies the one page, for this process only.
        self._storage: Any = torch.UntypedStorage.from_file(f"/proc/self/fd/{descriptor}", False, size)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor by its name, in the order of the header.

        Raises:
            InvalidModelException: An entry does not fit the file.
        """
        whole: dict[str, tuple[torch.Tensor, int]] = {}
        strides: dict[tuple[int, ...], tuple[int, ...]] = {}
        size = self._storage.nbytes()
        for name, entry in self._entries.items():
            code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if (view := whole.get(code)) is None:
                view = whole[code] = self._whole(code)
            base, item = view
            if (steps := strides.get(shape)) is None:
                steps = strides[shape] = contiguous_strides(shape)
            place, rest = divmod(self._start + begin, item)
            if rest or end - begin != prod(shape) * item or begin < 0 or self._start + end > size:
                raise _broken(f"{name} does not lie where it should")
            yield name, base.as_strided(shape, steps, place)

    def _whole(self, code: str) -> tuple[torch.Tensor, int]:
        """The file as one row of elements of a dtype, and the bytes of one."""
        dtype = TORCH_DTYPES.get(code)
        if dtype is None:
            raise _broken(f"this version of torch has no dtype {code}")
        item = dtype.itemsize
        row = torch.empty(0, dtype=dtype)
        row.set_(self._storage, 0, (self._storage.nbytes() // item,), (1,))
        return row, item


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
