"""The header of a safetensors file, read strictly: names, dtypes, shapes and places, never a weight.

The layout is eight bytes of little-endian header length, the header as JSON, then one buffer that the
tensors' ``data_offsets`` must tile without hole, overlap or rest
(https://huggingface.co/docs/safetensors, "Format"). Everything that the header claims is checked against
the file's size, so that a header that lies is found without reading what it points to.

Whoever reads headers reads them here, so what is installed can be loaded. What the library refuses is
refused, and also what no model has: names given twice, entries with keys of their own, more than
``MAX_DIMENSIONS`` dimensions, more than ``MAX_TENSORS`` tensors. A long header is parsed in a process of its
own, since a parser holds the interpreter's lock from its first byte to its last.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import struct
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from pydantic_core import from_json

from modelkeep import processes
from modelkeep.contents import BEGINNING_BYTES, Kind, content_of
from modelkeep.dtypes import DTYPES
from modelkeep.exceptions import InvalidModelException

#: The library's own limit. A longer header is refused unread.
MAX_HEADER_BYTES: Final = 100_000_000
#: A longer header is parsed in a process of its own.
LARGE_HEADER_BYTES: Final = 4 << 20
#: No framework has tensors of more dimensions.
MAX_DIMENSIONS: Final = 64
#: Names end up in answers and stored jobs; real ones have some hundred characters.
MAX_NAME_LENGTH: Final = 1024
#: Mixtures of experts have 100,000 tensors in all their files together.
MAX_TENSORS: Final = 1 << 17
#: Notes under ``__metadata__`` that are kept, and the length up to which one is.
MAX_NOTES: Final = 1000
MAX_NOTE_LENGTH: Final = 1 << 16

#: What the process that parses a long header may take. Every comma or bracket may be the beginning of a
#: value, and values take up to 300 bytes; MAX_TENSORS tensors come to 1.5 million.
_MAX_MARKS: Final = 4_000_000
_MEMORY_BYTES: Final = 2 << 30
_CPU_S: Final = 20
_WALL_S: Final = 40.0
_ANSWER_BYTES: Final = 256 << 20
_TENSORS_A_LINE: Final = 500
#: What helps against nearly every fault, and against notes that no library reads.
_FETCH_ANEW: Final = "Fetch the file anew; one that is still being written or was cut off is not whole."
_SAVE_ANEW: Final = "Save the file anew with notes that are texts: the safetensors library reads no others."
#: One at a time: each may take gigabytes of memory.
_apart = threading.Lock()

_BITS: Final[Mapping[str, int]] = {code: dtype.bits for code, dtype in DTYPES.items()}

#: As the header has it: ``dtype``, ``shape``, and in ``data_offsets`` the first byte and the one after the
#: last, counted from the start of the buffer.
_Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file. ``begin`` and ``end`` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    end: int = 0

    @property
    def elements(self) -> int:
        """Number of elements. Bounded only for what a header was read from."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def size_bytes(self) -> int:
        """Bytes that shape and dtype come to; of a type that is made of blocks, those in the file."""
        known = DTYPES.get(self.dtype)
        return self.elements * known.bits // 8 if known is not None else self.end - self.begin


def is_countable(shape: Iterable[int]) -> bool:
    """Whether natural dimensions multiply to what 63 bits hold, a 0 among them passed over: a tensor without
    elements has strides all the same, and those who multiply in order may come to the 0 last.
    """
    product = 1
    for dimension in shape:
        product *= dimension or 1
        if product >= 1 << 63:
            return False
    return True


class Header(Mapping[str, tuple[int, ...]]):
    """What a file says about itself: a mapping from names to shapes, in the order of the header.

    Attributes:
        path: Where the file is, for messages.
        metadata: The free strings under ``__metadata__``; those longer than ``MAX_NOTE_LENGTH`` characters
            are left out.
        size_bytes: Size of the whole file.
        header_bytes: Where the buffer begins.
    """

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, _Entry],
        metadata: Mapping[str, str],
        size_bytes: int,
        header_bytes: int,
    ) -> None:
        self.path = path
        self._entries = entries
        self.metadata = metadata
        self.size_bytes = size_bytes
        self.header_bytes = header_bytes

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def dtype(self, name: str) -> str:
        """The dtype as the format names it: ``F16``."""
        return str(self._entries[name]["dtype"])

    def first_under(self, prefix: str) -> str:
        """A tensor whose name begins with the prefix; empty if there is none."""
        at = bisect_left(self._sorted, prefix)
        found = self._sorted[at] if at < len(self._sorted) else ""
        return found if found.startswith(prefix) else ""

    def under(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors whose names begin with the prefix, by their names without it."""
        found: dict[str, tuple[int, ...]] = {}
        for name in islice(self._sorted, bisect_left(self._sorted, prefix), None):
            if not name.startswith(prefix):
                break
            found[name[len(prefix) :]] = tuple(self._entries[name]["shape"])
        return found

    def first_of(self, dtypes: Collection[str]) -> str:
        """A tensor of one of these dtypes; empty if there is none."""
        return next((name for name, entry in self._entries.items() if entry["dtype"] in dtypes), "")

    def without(self, names: Collection[str]) -> Header:
        """The same file, as if it had no tensors of these names."""
        rest = {name: entry for name, entry in self._entries.items() if name not in names}
        return Header(self.path, rest, self.metadata, self.size_bytes, self.header_bytes)

    # families ask for many prefixes: sorting once takes less than looking through all names once
    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._entries)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in the order in which they lie in the file."""
        start = self.header_bytes
        found = [
            Tensor(name, e["dtype"], tuple(e["shape"]), *(start + offset for offset in e["data_offsets"]))
            for name, e in self._entries.items()
        ]
        return tuple(sorted(found, key=lambda tensor: (tensor.begin, tensor.end)))

    def only(self, prefix: str) -> Header:
        """The same of those tensors alone whose names begin so; what is said of the file stays."""
        entries = {name: entry for name, entry in self._entries.items() if name.startswith(prefix)}
        return Header(self.path, entries, self.metadata, self.size_bytes, self.header_bytes)

    def check_lendable(self) -> None:
        """Every tensor is of a dtype that can be read and cast.

        Raises:
            InvalidModelException: One is not; it is named.
        """
        for name, entry in self._entries.items():
            if not DTYPES[entry["dtype"]].lendable:
                raise InvalidModelException(
                    f"{self.path.name} holds {_short(name)} as {entry['dtype']}, which cannot be lent: "
                    "convert it to F16, BF16 or F32 first.",
                    metadata={"path": str(self.path), "detail": f"dtype {entry['dtype']}"},
                )


class Allowance:
    """What the headers of one model's files may come to together: no more than the one of a single file."""

    def __init__(self) -> None:
        self.header_bytes = MAX_HEADER_BYTES
        self.tensors = MAX_TENSORS


def read_header(
    fd: int,
    path: Path,
    *,
    allowance: Allowance | None = None,
    whole: Collection[str] = (),
    size_bytes: int | None = None,
) -> Header:
    """Read and check the header of the file behind a descriptor. Blocks: call it from a thread.

    Args:
        fd: Open descriptor of a regular file; its position does not matter and is left alone.
        path: What to call the file in messages.
        allowance: What is left for the headers of this model's files; what this one takes is taken off.
        whole: Notes that are kept however long they are.
        size_bytes: Of the whole file, where the descriptor has only its beginning; None: it has all.

    Raises:
        InvalidModelException: It is no safetensors file, or its header is cut off or lies. Found in the time
            that a good header takes, whatever the header claims.
        OSError: It cannot be read, or there is no memory to parse it.
    """
    size = os.fstat(fd).st_size if size_bytes is None else size_bytes
    start = os.pread(fd, BEGINNING_BYTES, 0)
    content = content_of(start, size)
    if content.is_known:
        raise InvalidModelException(
            f"{path.name} is no valid safetensors file: it is {content.what}.",
            metadata={"path": str(path), "detail": content.what},
            remedy=content.remedy,
        )
    if len(start) < 8:
        _bad(path, "shorter than the 8 bytes that every safetensors file begins with")
    (length,) = struct.unpack("<Q", start[:8])
    if length > size - 8:
        what = "cut off: " if content.kind is Kind.SAFETENSORS else ""
        _bad(path, f"{what}the header claims {length:,} bytes, the file has {size:,}")
    left = allowance if allowance is not None else Allowance()
    if length > left.header_bytes:
        others = MAX_HEADER_BYTES - left.header_bytes
        known = f" beside {others:,} of other files" if others else ""
        _bad(path, f"the header claims {length:,} bytes{known}, more than the {MAX_HEADER_BYTES:,} allowed")
    left.header_bytes -= length
    if length > LARGE_HEADER_BYTES:
        entries, metadata = _parse_apart(path, fd, length, size, whole)
    else:
        entries, metadata = _parse(path, _read_exactly(path, fd, length), size - 8 - length, whole)
    left.tensors -= len(entries)
    if left.tensors < 0:
        _bad(path, f"with it the model has more than the {MAX_TENSORS:,} tensors allowed")
    return Header(path, entries, metadata, size, 8 + length)


def _read_exactly(path: Path, fd: int, length: int) -> bytes:
    parts = []
    position = 8
    while length:
        part = os.pread(fd, length, position)
        if not part:
            _bad(path, "the file became shorter while it was read")
        parts.append(part)
        position += len(part)
        length -= len(part)
    return b"".join(parts)


def _parse(
    path: Path, text: bytes, buffer_bytes: int, whole: Collection[str]
) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Entries and notes of a header."""
    if text[:1] != b"{":
        _bad(path, "the header is not a JSON object")
    if len(text) > LARGE_HEADER_BYTES:  # a look before the parser takes memory for them
        _check_count(path, text.count(b'"data_offsets"'))
        if sum(map(text.count, (b",", b"[", b"{"))) > _MAX_MARKS:
            _bad(path, f"more than {_MAX_MARKS:,} commas and brackets in its header")
    try:
        # a third faster than json.loads, which is most of a probe's time; bounds the nesting itself
        content = from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        _bad(path, f"the header is not JSON: {error}")
    noted = "__metadata__" in content
    metadata = content.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    elif type(metadata) is not dict:
        _bad(path, "__metadata__ is not a map of strings")
    elif odd := [key for key, value in metadata.items() if type(value) is not str]:
        _bad(path, f"__metadata__ is not a map of strings: its {_short(odd[0])} is no text", _SAVE_ANEW)
    _check_count(path, len(content))
    # The parser keeps the last of several equal keys in silence, and takes -0. Each key has its colon; where
    # there are more of these than keys, the slower parser, which sees every key, has to look.
    keys = 4 * len(content) + noted + len(metadata)
    if text.count(b":") != keys or b"-" in text:
        _parse_slowly(path, text)
    _check_tensors(path, content, buffer_bytes)
    notes = islice(metadata.items(), MAX_NOTES)
    return content, {k: v for k, v in notes if k in whole or len(k) + len(v) <= MAX_NOTE_LENGTH}


def _check_count(path: Path, count: int) -> None:
    if count > MAX_TENSORS:
        _bad(path, f"{count:,} tensors, more than the {MAX_TENSORS:,} allowed")


def _parse_slowly(path: Path, text: bytes) -> None:
    """Look at every key and number, of a header that is JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                _bad(path, f"{_short(key)} is there twice")
            found[key] = value
        return found

    def natural(digits: str) -> int:
        if digits[0] == "-":
            _bad(path, f"the number {digits[:40]}, where only natural ones have a place")
        return 0

    json.loads(text, object_pairs_hook=unique, parse_int=natural)


def _check_tensors(path: Path, tensors: dict[str, Any], buffer_bytes: int) -> None:
    """Every entry is well-formed, and together they tile the buffer."""
    bits_of = _BITS
    spans = []
    for name, entry in tensors.items():
        # written flat, and with the common case first: a header has thousands of entries
        try:
            begin, end = entry["data_offsets"]
            bits = bits_of[entry["dtype"]]
            shape = entry["shape"]
            if len(shape) > MAX_DIMENSIONS or len(name) > MAX_NAME_LENGTH:
                _bad(path, f"tensor {_short(name)} has a longer name or more dimensions than any model's")
            for dimension in shape:
                if type(dimension) is not int or not 0 <= dimension < 1 << 63:
                    _bad(path, f"tensor {_short(name)} has a dimension that is no natural number")
                bits *= dimension
        except (KeyError, TypeError, ValueError):
            _bad(path, f"tensor {_short(name)} has no valid dtype, shape and data_offsets")
        if type(begin) is not int or type(end) is not int or type(shape) is not list or len(entry) != 3:
            _bad(path, f"tensor {_short(name)} has no valid dtype, shape and data_offsets")
        if (end - begin) * 8 != bits or not bits:
            _check_size(path, name, entry, bits)
        spans.append((begin, end))
    spans.sort()
    position = 0
    for begin, end in spans:
        if begin != position:
            fault = "hole" if begin > position else "overlap"
            _bad(path, f"the tensors do not tile the buffer: {fault} at {position}")
        position = end
    if position != buffer_bytes:
        fault = "truncated" if position > buffer_bytes else "longer than its tensors"
        _bad(path, f"{fault}: the header describes {position:,} bytes of them, the file has {buffer_bytes:,}")


def _check_size(path: Path, name: str, entry: Mapping[str, Any], bits: int) -> None:
    """The rarer cases of a tensor's size: none, or not what the offsets say."""
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end < 1 << 63:
        _bad(path, f"tensor {_short(name)} has data_offsets that are no place in a file")
    if (end - begin) * 8 != bits:
        _bad(
            path,
            f"tensor {_short(name)} of {entry['dtype']} {str(entry['shape'])[:200]} takes "
            f"{min(bits // 8, 1 << 63):,} bytes, its data_offsets say {end - begin:,}",
        )
    if not is_countable(entry["shape"]):
        _bad(path, f"tensor {_short(name)} has more elements than can be counted")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def _bad(path: Path, detail: str, remedy: str = _FETCH_ANEW) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} is no valid safetensors file: {detail}.",
        metadata={"path": str(path), "detail": detail},
        remedy=remedy,
    )


# ---- long headers, parsed in a process of their own -------------------------------------------------------
def _parse_apart(
    path: Path, fd: int, length: int, size: int, whole: Collection[str]
) -> tuple[dict[str, _Entry], dict[str, str]]:
    """What :func:`_parse` returns. Nothing here holds the interpreter's lock for long."""
    entries: dict[str, _Entry] = {}
    metadata: dict[str, str] = {}
    with _apart:
        arguments = [str(fd), str(length), str(size), json.dumps(sorted(whole))]
        process = processes.start(
            "modelkeep.headers",
            *arguments,
            keep_open=[fd],
            stdout=processes.PIPE,
            stderr=processes.DEVNULL,
        )
        ended = False
        try:
            assert process.stdout is not None
            with process.stdout as pipe:
                for line in _lines(pipe):
                    part = json.loads(line)
                    if "error" in part:
                        _bad(path, part["error"])
                    entries |= part.get("tensors", {})
                    metadata |= part.get("metadata", {})
                    ended = ended or "ended" in part
        finally:
            code = process.end()
    if not ended:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise OSError(
            errno.ENOMEM, f"the process that parses its header of {length:,} bytes broke down ({how})"
        )
    return entries, metadata


def _lines(pipe: IO[bytes]) -> Iterator[bytes]:
    """The lines that come out of a process, within bounds of bytes and time."""
    deadline = time.monotonic() + _WALL_S
    rest = bytearray()
    total = 0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(deadline - time.monotonic()) and total < _ANSWER_BYTES:
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                return
            total += len(data)
            *lines, last = data.split(b"\n")
            for line in lines:
                yield bytes(rest) + line
                rest.clear()
            rest += last


def _answer(fd: int, length: int, size: int, whole: Collection[str]) -> Iterable[dict[str, Any]]:
    """What the process says, part by part."""
    path = Path("header")
    try:
        entries, metadata = _parse(path, _read_exactly(path, fd, length), size - 8 - length, whole)
    except InvalidModelException as error:
        yield {"error": error.metadata["detail"]}
        return
    except MemoryError:
        yield {"error": f"parsing the header takes more than {_MEMORY_BYTES:,} bytes of memory"}
        return
    rest = iter(entries.items())
    while part := dict(islice(rest, _TENSORS_A_LINE)):
        yield {"tensors": part}
    for key, text in metadata.items():
        yield {"metadata": {key: text}}
    yield {"ended": True}


def _main(arguments: list[str]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    fd, length, size = map(int, arguments[:3])
    for part in _answer(fd, length, size, json.loads(arguments[3])):
        sys.stdout.write(json.dumps(part) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1:])
