"""The safetensors format, read and laid out without torch.

A file is 8 bytes (little-endian length N of the header), N bytes of JSON, then the tensors without
gaps (https://huggingface.co/docs/safetensors/index#format). The loader reads the headers of installed
files to know what a component will take, and lays out the sealed memory that it lends so that almost
every tensor begins at a multiple of 64 bytes: the header is padded with spaces to a page, and tensors
whose size is a multiple of 64 come first. The format forbids holes, so order is what is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from modelkeep.exceptions import InvalidModelException

#: Largest header that is read, as in the safetensors library.
MAX_HEADER_BYTES: Final = 100_000_000
#: The header of a laid-out file ends at a multiple of this.
HEADER_ALIGNMENT: Final = 4096
#: Tensors whose size is a multiple of this come first.
TENSOR_ALIGNMENT: Final = 64

#: Bytes an element takes, by the format's dtype code.
ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
#: The floating-point codes that a cast applies to.
FLOAT_CODES: Final = frozenset({"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"})
#: Names of the precisions that can be asked for, and their codes.
CODE_OF_PRECISION: Final[Mapping[str, str]] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
PRECISION_OF_CODE: Final[Mapping[str, str]] = {code: name for name, code in CODE_OF_PRECISION.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file. ``begin`` and ``end`` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    end: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes that shape and dtype come to."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself. ``metadata`` is the free text of ``__metadata__``."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def cast_bytes(self, precision: str, kept: Collection[str] = ()) -> int:
        """Bytes of the tensors once every floating-point one has this precision.

        Args:
            precision: Name of the precision.
            kept: Modules whose tensors are in float32 where that is float16.
        """
        item, wide = ITEM_BYTES[CODE_OF_PRECISION[precision]], ITEM_BYTES["F32"]
        total = 0
        for tensor in self.tensors:
            if tensor.dtype not in FLOAT_CODES:
                total += tensor.size_bytes
            elif precision == "float16" and not set(kept).isdisjoint(tensor.name.split(".")):
                total += prod(tensor.shape) * wide
            else:
                total += prod(tensor.shape) * item
        return total

    def main_float_code(self) -> str | None:
        """The code of a precision that can be asked for that most bytes have; None if no tensor has one."""
        total: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.dtype in PRECISION_OF_CODE:
                total[tensor.dtype] = total.get(tensor.dtype, 0) + tensor.size_bytes
        return max(total, key=lambda code: total[code]) if total else None


def _broken(name: str, detail: str) -> InvalidModelException:
    return InvalidModelException(
        f"{name} is not a sound safetensors file: {detail}.", metadata={"path": name, "detail": detail}
    )


def read_header(fd: int, name: str) -> Header:
    """Read and check the header of the safetensors file behind a descriptor.

    Checks what the format demands: every offset inside the file, no gap and no overlap, sizes that
    agree with shape and dtype, nothing after the last tensor.

    Args:
        fd: Open descriptor; its position does not matter and is left alone.
        name: What to call the file in messages.

    Raises:
        InvalidModelException: The header lies, is truncated, or is no safetensors header.
    """
    size = os.fstat(fd).st_size
    if size < 8:
        raise _broken(name, f"it has only {size} bytes")
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if length > MAX_HEADER_BYTES or 8 + length > size:
        raise _broken(name, f"its header claims {length} bytes, the file has {size}")
    try:
        raw = json.loads(os.pread(fd, length, 8))
    except (ValueError, RecursionError):
        raise _broken(name, "its header is no JSON") from None
    if not isinstance(raw, dict):
        raise _broken(name, "its header is no JSON object")
    metadata = raw.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(name, "its metadata is no map of strings")
    start = 8 + length
    tensors = [_tensor(name, key, value, start) for key, value in raw.items()]
    tensors.sort(key=lambda t: (t.begin, t.end))
    position = start
    for tensor in tensors:
        if tensor.begin != position:
            raise _broken(name, f"there is a gap or an overlap before {tensor.name!r}")
        if tensor.end - tensor.begin != tensor.size_bytes:
            raise _broken(name, f"the size of {tensor.name!r} does not fit its shape and dtype")
        position = tensor.end
    if position != size:
        verb = "is truncated" if position > size else "goes on after the last tensor"
        raise _broken(name, f"it {verb}: {position} bytes announced, {size} there")
    return Header(tuple(tensors), metadata)


def _tensor(name: str, key: str, value: object, start: int) -> Tensor:
    if not isinstance(value, dict):
        raise _broken(name, f"the entry of {key!r} is no object")
    dtype, shape, offsets = value.get("dtype"), _sizes(value.get("shape")), _sizes(value.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _broken(name, f"{key!r} has the dtype {str(dtype)[:40]!r}, which is not handled")
    if shape is None or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(name, f"shape or offsets of {key!r} are no sizes")
    return Tensor(key, dtype, shape, start + offsets[0], start + offsets[1])


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        return tuple(value)
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes in a file that is about to be written."""

    head: bytes
    tensors: tuple[Tensor, ...]
    size_bytes: int


def lay_out(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> Layout:
    """Order tensors for alignment and write the header for them.

    Args:
        tensors: Names, dtypes and shapes; offsets are ignored.
        metadata: Free text for ``__metadata__``.
    """
    ordered = sorted(
        tensors,
        key=lambda t: (t.size_bytes % TENSOR_ALIGNMENT != 0, -ITEM_BYTES[t.dtype], t.name),
    )
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    relative = 0
    for tensor in ordered:
        end = relative + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [relative, end],
        }
        relative = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % HEADER_ALIGNMENT)
    start = 8 + len(text)
    placed: list[Tensor] = []
    position = start
    for tensor in ordered:
        end = position + tensor.size_bytes
        placed.append(Tensor(tensor.name, tensor.dtype, tensor.shape, position, end))
        position = end
    return Layout(len(text).to_bytes(8, "little") + text, tuple(placed), position)
