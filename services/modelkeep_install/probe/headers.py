"""The header of a safetensors file, read strictly: names, dtypes and shapes, never a weight.

The layout is eight bytes of little-endian header length, the header as JSON, then one buffer that the
tensors' ``data_offsets`` must tile without hole, overlap or rest
(https://huggingface.co/docs/safetensors, "Format"). Everything that the header claims is checked against
the file's size, so that a header that lies is found without reading what it points to.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pydantic_core import from_json

from modelkeep.exceptions import InvalidModelException

from ..system_errors import no_regular_file, reading

#: A longer header is refused unread. The reference implementation takes 100 MB; parsing that would keep
#: every other thread of the process waiting for seconds, and real headers have some hundred KiB.
MAX_HEADER_BYTES = 8 << 20
#: No framework has tensors of more dimensions; a product of millions of factors would take for ever.
_MAX_DIMENSIONS = 64
#: Names end up in answers and stored jobs; real ones have some hundred characters.
_MAX_NAME = 1024

#: Bits an element takes, per dtype of the format.
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

#: Opens a file for reading; the service's own also refuses what lies outside the allowed roots.
Opener = Callable[[Path], BinaryIO]


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a FIFO or device is refused in place of waited for.

    Raises:
        InvalidModelException: The path is no regular file.
        ModelkeepError: It cannot be opened; see ``system_errors``.
    """
    with reading(path):
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise no_regular_file(path)
    return os.fdopen(descriptor, "rb", buffering=0)


class SafetensorsHeader(Mapping[str, tuple[int, ...]]):
    """Names and shapes of a safetensors file, as a mapping; in the order of the header."""

    __slots__ = ("_sorted", "_tensors", "header_bytes", "metadata", "path", "size_bytes")

    def __init__(
        self,
        path: Path,
        tensors: dict[str, dict[str, Any]],
        metadata: dict[str, str],
        size_bytes: int,
        header_bytes: int,
    ) -> None:
        self.path = path
        self._tensors = tensors
        self._sorted: list[str] = []
        #: The free strings under ``__metadata__``.
        self.metadata = metadata
        #: Size of the whole file.
        self.size_bytes = size_bytes
        #: Bytes that had to be read for this, the length field included.
        self.header_bytes = header_bytes

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name]["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def first_under(self, prefix: str) -> str:
        """A tensor whose name begins with the prefix; empty if there is none."""
        # families ask for many prefixes: sorting once takes less than looking through all names once
        if not self._sorted:
            self._sorted = sorted(self._tensors)
        at = bisect_left(self._sorted, prefix)
        found = self._sorted[at] if at < len(self._sorted) else ""
        return found if found.startswith(prefix) else ""

    def dtype(self, name: str) -> str:
        """The dtype as the format names it: ``F16``."""
        return str(self._tensors[name]["dtype"])


def read_header(path: Path, opener: Opener = open_regular) -> SafetensorsHeader:
    """Reads and checks the header of one file.

    Raises:
        InvalidModelException: The file is no safetensors file, or its header is cut off or lies. Found in
            the time that a good header takes, whatever the header claims.
    """
    with reading(path), opener(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if len(start) < 8:
            _bad(path, "shorter than the 8 bytes that every safetensors file begins with")
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            _bad(path, f"the header claims {length:,} bytes, the file has {size:,}")
        if length > MAX_HEADER_BYTES:
            _bad(path, f"the header claims {length:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed")
        text = _read_exactly(path, file, length)
    if text[:1] != b"{":
        _bad(path, "the header is not a JSON object")
    try:
        # a third faster than json.loads, which is most of a probe's time; bounds the nesting itself
        content = from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        _bad(path, f"the header is not JSON: {error}")
    metadata = content.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    elif type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        _bad(path, "__metadata__ is not a map of strings")
    _check_tensors(path, content, size - 8 - length)
    return SafetensorsHeader(path, content, metadata, size, 8 + length)


def _read_exactly(path: Path, file: BinaryIO, length: int) -> bytes:
    parts = []
    while length:
        part = file.read(length)
        if not part:
            _bad(path, "the file became shorter while it was read")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _check_tensors(path: Path, tensors: dict[str, Any], buffer_bytes: int) -> None:
    """Every entry is well-formed, and together they tile the buffer."""
    bits_of = DTYPE_BITS
    spans = []
    for name, entry in tensors.items():
        # written flat, and with the common case first: a header has thousands of entries
        try:
            begin, end = entry["data_offsets"]
            bits = bits_of[entry["dtype"]]
            shape = entry["shape"]
            if len(shape) > _MAX_DIMENSIONS or len(name) > _MAX_NAME:
                _bad(path, f"tensor {name[:80]!r} has a longer name or more dimensions than any model's")
            for dimension in shape:
                if type(dimension) is not int or not 0 <= dimension < 1 << 63:
                    _bad(path, f"tensor {name!r} has a dimension that is no natural number")
                bits *= dimension
        except (KeyError, TypeError, ValueError):
            _bad(path, f"tensor {name!r} has no valid dtype, shape and data_offsets")
        if type(begin) is not int or type(end) is not int or type(shape) is not list:
            _bad(path, f"tensor {name!r} has no valid dtype, shape and data_offsets")
        if (end - begin) * 8 != bits:
            if not 0 <= begin <= end < 1 << 63:
                _bad(path, f"tensor {name!r} has data_offsets that are no place in a file")
            _bad(
                path,
                f"tensor {name!r} of {entry['dtype']} {str(shape)[:200]} takes {min(bits // 8, 1 << 63):,} "
                f"bytes, its data_offsets say {end - begin:,}",
            )
        spans.append((begin, end))
    spans.sort()
    position = 0
    for begin, end in spans:
        if begin != position:
            fault = "hole" if begin > position else "overlap"
            _bad(path, f"the tensors do not tile the buffer: {fault} at {position}")
        position = end
    if position != buffer_bytes:
        _bad(path, f"the header describes {position:,} bytes of tensors, the file has {buffer_bytes:,}")


def _bad(path: Path, detail: str) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} is no valid safetensors file: {detail}.", metadata={"path": str(path), "detail": detail}
    )
