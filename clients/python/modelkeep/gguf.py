"""The header of a GGUF file, read strictly and within bounds: notes, names, types, shapes and places.

The layout is the one that ggml describes: magic, version, counts, key and value pairs, tensor infos, and
after padding the data. No weight is read, and torch is not needed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, NoReturn

from modelkeep.dtypes import DTYPES
from modelkeep.exceptions import InvalidModelException
from modelkeep.headers import MAX_NAME_LENGTH, MAX_TENSORS, Allowance, Header, is_countable

MAGIC: Final = b"GGUF"
#: Tokenizers in the notes take some megabytes.
MAX_HEADER_BYTES: Final = 64 << 20
_MAX_NOTES: Final = 1 << 16
#: Texts in arrays, of which nothing is read but their lengths. The largest tokenizers have less than a
#: million words and merges; each takes a microsecond, and the reader shares its process with others.
_MAX_TEXTS: Final = 1 << 21
#: ggml's own limit, GGML_MAX_DIMS.
_MAX_DIMENSIONS: Final = 4
_MAX_NOTE_CHARACTERS: Final = 1 << 16
_DEFAULT_ALIGNMENT: Final = 32
_MAX_ALIGNMENT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """A type of ggml's: how many numbers a block has, and how many bytes it takes."""

    elements: int
    size_bytes: int


#: By ggml's name of the type.
BLOCKS: Final[Mapping[str, Block]] = {
    "Q4_0": Block(32, 18),
    "Q4_1": Block(32, 20),
    "Q5_0": Block(32, 22),
    "Q5_1": Block(32, 24),
    "Q8_0": Block(32, 34),
    "Q2_K": Block(256, 84),
    "Q3_K": Block(256, 110),
    "Q4_K": Block(256, 144),
    "Q5_K": Block(256, 176),
    "Q6_K": Block(256, 210),
    "IQ4_NL": Block(32, 18),
    "IQ4_XS": Block(256, 136),
}
#: ggml's number of a type → its name, or the code of the same type in safetensors.
_TYPES: Final[Mapping[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    20: "IQ4_NL",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    30: "BF16",
}
#: Types that exist and are not read, for messages.
_UNREAD: Final = {9: "Q8_1", 15: "Q8_K", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
#: Number of a note's type → struct's letter.
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
#: What such a note says of a tensor whose shape ggml cannot hold, or not in blocks: its own one.
_SHAPE_NOTE: Final = "comfy.gguf.orig_shape."
_MOST_SHAPE: Final = 8
#: Types of natural numbers.
_NATURALS: Final = frozenset({0, 2, 4, 5, 10, 11})
_STRING: Final = 8
_ARRAY: Final = 9


class _Reader:
    """Reads fields one after the other, in little-endian order."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self.path = fd, path
        self._data, self._start = b"", 0
        self.position = 0
        self._texts = 0

    def take(self, count: int) -> bytes:
        if self.position + count > MAX_HEADER_BYTES:
            _bad(self.path, f"its header is longer than the {MAX_HEADER_BYTES:,} bytes allowed")
        begin = self.position - self._start
        if begin + count > len(self._data):
            self._data = os.pread(self._fd, max(count, 1 << 20), self.position)
            self._start, begin = self.position, 0
            if len(self._data) < count:
                _bad(self.path, "cut off in its header")
        self.position += count
        return self._data[begin : begin + count]

    def skip(self, count: int) -> None:
        """Pass over bytes; what lies beyond the end shows at the next field."""
        self.position += count
        if self.position > MAX_HEADER_BYTES:
            _bad(self.path, f"its header is longer than the {MAX_HEADER_BYTES:,} bytes allowed")

    def skip_texts(self, count: int) -> None:
        """Pass over an array of texts."""
        self._texts += count
        if self._texts > _MAX_TEXTS:
            _bad(self.path, f"more than the {_MAX_TEXTS:,} texts allowed in the arrays of its header")
        for _ in range(count):
            self.skip(self.number("Q"))

    def number(self, letter: str) -> Any:
        form = f"<{letter}"
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, limit: int) -> str:
        length = self.number("Q")
        if length > limit:
            _bad(self.path, f"a text of {length:,} bytes in its header")
        return self.take(length).decode("utf-8", "replace")


def is_gguf(fd: int) -> bool:
    """Whether the file behind a descriptor begins as one."""
    return os.pread(fd, len(MAGIC), 0) == MAGIC


def read_gguf(fd: int, path: Path, *, allowance: Allowance | None = None) -> Header:
    """Read and check the header of the file behind a descriptor. Blocks: call it from a thread.

    Args:
        fd: Open descriptor of a regular file; its position does not matter and is left alone.
        path: What to call the file in messages.
        allowance: What is left for the headers of this model's files; what this one takes is taken off.

    Returns:
        Shapes are in torch's order, the reverse of ggml's. The dtype of a tensor that is made of blocks is
        ggml's name of their type, one of :data:`BLOCKS`. Notes that are arrays are left out.

    Raises:
        InvalidModelException: It is no GGUF file of version 2 or 3, its header is cut off or lies, or a
            tensor has a type that is not read; it is named.
        OSError: It cannot be read.
    """
    size = os.fstat(fd).st_size
    reader = _Reader(fd, path)
    if reader.take(len(MAGIC)) != MAGIC:
        _bad(path, "it does not begin as one")
    version = reader.number("I")
    if version not in (2, 3):
        _bad(path, f"version {version}, and only 2 and 3 are read")
    count, note_count = reader.number("Q"), reader.number("Q")
    if count > MAX_TENSORS or note_count > _MAX_NOTES:
        _bad(path, f"{count:,} tensors and {note_count:,} notes, more than allowed")
    left = allowance if allowance is not None else Allowance()
    left.tensors -= count
    if left.tensors < 0:
        _bad(path, f"with it the model has more than the {MAX_TENSORS:,} tensors allowed")
    notes: dict[str, str | int | float | bool] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(note_count):
        key = reader.text(_MAX_NOTE_CHARACTERS)
        value = _note(reader, reader.number("I"))
        if isinstance(value, tuple):
            shapes[key.removeprefix(_SHAPE_NOTE)] = value if key.startswith(_SHAPE_NOTE) else ()
        elif value is not None:
            notes[key] = value
    infos = [_info(reader) for _ in range(count)]
    if len({name for name, *_ in infos}) != count:
        _bad(path, "a name is there twice")
    alignment = notes.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        _bad(path, f"an alignment of {str(alignment)[:40]}")
    start = -(-reader.position // alignment) * alignment
    left.header_bytes -= start
    if left.header_bytes < 0:
        _bad(path, "the headers of the model's files are longer than allowed together")
    entries = _placed(infos, start, alignment, size, path)
    for name, shape in shapes.items():
        if shape and name in entries:
            is_shape = min(shape) >= 0 and is_countable(shape)
            if not is_shape or prod(shape) != prod(entries[name]["shape"]):
                _bad(path, f"{name[:80]!r} is said to have the shape {list(shape)}")
            entries[name]["shape"] = list(shape)
    return Header(path, entries, {key: str(value) for key, value in notes.items()}, size, start)


def _note(reader: _Reader, kind: int) -> str | int | float | bool | tuple[int, ...] | None:
    """A note's value: of arrays only short ones of natural numbers, which shapes are."""
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])  # type: ignore[no-any-return]
    if kind == _STRING:
        length = reader.number("Q")
        if length <= _MAX_NOTE_CHARACTERS:
            return reader.take(length).decode("utf-8", "replace")
        reader.skip(length)
        return None
    if kind != _ARRAY:
        _bad(reader.path, f"a note of the unknown type {kind}")
    inner, length = reader.number("I"), reader.number("Q")
    if length > MAX_HEADER_BYTES:
        _bad(reader.path, f"an array of {length:,} entries")
    if inner in _NATURALS and length <= _MOST_SHAPE:
        return tuple(int(reader.number(_SCALARS[inner])) for _ in range(length))
    if inner in _SCALARS:
        reader.skip(length * struct.calcsize(f"<{_SCALARS[inner]}"))
    elif inner == _STRING:
        reader.skip_texts(length)
    else:
        _bad(reader.path, f"an array of the type {inner}")
    return None


def _info(reader: _Reader) -> tuple[str, str, tuple[int, ...], int]:
    name = reader.text(MAX_NAME_LENGTH)
    dimensions = reader.number("I")
    if dimensions > _MAX_DIMENSIONS:
        _bad(reader.path, f"{name!r} has {dimensions} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
    kind, offset = reader.number("I"), reader.number("Q")
    if (type_name := _TYPES.get(kind)) is None:
        known = _UNREAD.get(kind, f"number {kind}")
        raise InvalidModelException(
            f"{reader.path.name} holds {name[:200]!r} in ggml's type {known}, which cannot be lent.",
            metadata={"path": str(reader.path), "detail": f"quantised: GGUF type {known}"},
            remedy=f"Use this model's file in one of {', '.join(BLOCKS)}, or in F16, BF16 or F32.",
        )
    return name, type_name, shape, offset


def _placed(
    infos: list[tuple[str, str, tuple[int, ...], int]], start: int, alignment: int, size: int, path: Path
) -> dict[str, dict[str, Any]]:
    """The tensors with their places, which neither overlap nor lie beyond the end."""
    entries: dict[str, dict[str, Any]] = {}
    for name, type_name, shape, offset in infos:
        if not is_countable(shape):
            _bad(path, f"{name[:80]!r} has more elements than can be counted")
        elements = prod(shape)
        block = BLOCKS.get(type_name)
        if block is None:
            length = elements * DTYPES[type_name].bits // 8
        elif not shape or shape[-1] % block.elements:
            _bad(path, f"{name[:80]!r} of {list(shape)[:8]} is not made of blocks of {block.elements}")
        else:
            length = elements // block.elements * block.size_bytes
        if offset % alignment:
            _bad(path, f"{name[:80]!r} is not aligned")
        entries[name] = {"dtype": type_name, "shape": list(shape), "data_offsets": [offset, offset + length]}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, after = entry["data_offsets"]
        if begin < end:
            _bad(path, f"{name[:80]!r} overlaps another tensor")
        end = after
    if start + end > size:
        _bad(path, f"truncated: the header describes {start + end:,} bytes, the file has {size:,}")
    return entries


def _bad(path: Path, detail: str) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} is no valid GGUF file: {detail}.",
        metadata={"path": str(path), "detail": detail},
        remedy="Fetch the file anew; one that is still being written or was cut off is not whole.",
    )
