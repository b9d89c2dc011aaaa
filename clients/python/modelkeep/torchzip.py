"""The archive that torch.save writes, read strictly: where its entries lie, and never more than their names.

torch writes a zip whose entries are stored one after the other, as they are: ``NAME/data.pkl`` with the
pickle, ``NAME/data/0`` and so on with the bytes of the storages, some small ones beside them, and the central
directory behind them all. What else a zip may be (compressed, encrypted, with entries that overlap or are
there twice, with a comment or something before its beginning) torch never writes, and it is refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from modelkeep.exceptions import InvalidModelException, UnsafeFormatException

#: Entries and the bytes of the directory that lists them: more than any model has.
MAX_ENTRIES: Final = 1 << 16
_MAX_DIRECTORY_BYTES: Final = 16 << 20
#: The pickle has names and shapes: 120 bytes a tensor.
MAX_PICKLE_BYTES: Final = 16 << 20

_LOCAL: Final = b"PK\x03\x04"
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
#: What stands where a number needs 64 bits, which are in a field of their own.
_LARGE: Final = 0xFFFFFFFF
_FIELD_64: Final = 1
_ENCRYPTED: Final = 0x2041
_TORCHSCRIPT: Final = ("constants.pkl", "code/")


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes of the file that are one entry: from ``begin`` to before ``end``."""

    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many."""
        return self.end - self.begin


def is_zip(fd: int) -> bool:
    """Whether the file begins as a zip does."""
    return os.pread(fd, 4, 0) == _LOCAL


def unsafe(path: Path, why: str) -> NoReturn:
    """Refuse a pickle.

    Args:
        path: What to call it.
        why: What was found; a phrase that follows a colon.
    """
    raise UnsafeFormatException(
        f"{path.name} is a pickle, which may run code when it is read, and it is not lent: {why}.",
        metadata={"path": str(path), "format": path.suffix.lower() or ".bin"},
        remedy="Use the model's safetensors files in their place, or convert it where you trust it: load it "
        "with torch, and save its state dict with safetensors.torch.save_file.",
    )


def broken(path: Path, what: str) -> NoReturn:
    """Refuse a file that is not whole, or does not fit together."""
    raise InvalidModelException(
        f"{path.name} is no valid file of torch.save: {what}.",
        metadata={"path": str(path), "detail": what},
        remedy="Fetch the file anew; one that is still being written or was cut off is not whole.",
    )


def read_entries(fd: int, path: Path) -> dict[str, Entry]:
    """Where the entries lie, by their names below the archive's own.

    Args:
        fd: Open descriptor of a regular file; its position is left alone.
        path: What to call the file in messages.

    Raises:
        UnsafeFormatException: It is another zip than torch writes, or none.
        InvalidModelException: It is cut off.
        OSError: It cannot be read.
    """
    size = os.fstat(fd).st_size
    if not is_zip(fd):
        unsafe(path, "it is not in the zip format that torch.save writes since version 1.6")
    try:
        count, at, length = _directory(fd, path, size)
        directory = os.pread(fd, length, at)
        if len(directory) != length:
            broken(path, "its directory is cut off")
        found = _entries(fd, path, directory, count, at)
    except struct.error:
        broken(path, "its directory is cut off")
    return _below(path, found)


def read_pickle(fd: int, path: Path, entries: Mapping[str, Entry]) -> bytes:
    """The pickle's bytes, and nothing is done with them."""
    entry = entries["data.pkl"]
    if entry.size_bytes > MAX_PICKLE_BYTES:
        unsafe(path, f"its data.pkl has {entry.size_bytes:,} bytes; {MAX_PICKLE_BYTES:,} are allowed")
    order = entries.get("byteorder")
    if order is not None and os.pread(fd, min(order.size_bytes, 16), order.begin) != b"little":
        broken(path, "its numbers are not in little-endian order")
    data = os.pread(fd, entry.size_bytes, entry.begin)
    if len(data) != entry.size_bytes:
        broken(path, "the file became shorter while it was read")
    return data


def _directory(fd: int, path: Path, size: int) -> tuple[int, int, int]:
    """Number of entries, and where the directory begins and how long it is."""
    if size < _END.size:
        broken(path, "cut off")
    end = size - _END.size
    mark, disk, first, here, count, length, at, comment = _END.unpack(os.pread(fd, _END.size, end))
    if mark != b"PK\x05\x06" or comment:
        broken(path, "it does not end as such a file does, so it is cut off or something was appended")
    upto = end
    if end >= _LOCATOR.size:
        locator = _LOCATOR.unpack(os.pread(fd, _LOCATOR.size, end - _LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            upto = locator[2]
            if upto > end - _LOCATOR.size - _END64.size:
                broken(path, "its directory is cut off")
            end64 = _END64.unpack(os.pread(fd, _END64.size, upto))
            mark, disk, first = end64[0], end64[4], end64[5]
            here, count, length, at = end64[6:]
            if mark != b"PK\x06\x06":
                broken(path, "its directory is cut off")
    if disk or first or here != count or count > MAX_ENTRIES or length > _MAX_DIRECTORY_BYTES:
        unsafe(path, f"its directory claims {count:,} entries in {length:,} bytes")
    if at + length != upto:
        broken(path, "its directory is not where its end says")
    return count, at, length


def _entries(fd: int, path: Path, directory: bytes, count: int, until: int) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    position = last = 0
    for _ in range(count):
        field = _CENTRAL.unpack_from(directory, position)
        name_at = position + _CENTRAL.size
        name_bytes, extra_bytes, comment_bytes = field[10:13]
        raw = directory[name_at : name_at + name_bytes]
        extra = directory[name_at + name_bytes : name_at + name_bytes + extra_bytes]
        position = name_at + name_bytes + extra_bytes + comment_bytes
        packed, size, at = _large(extra, field[8], field[9], field[16])
        name = raw.decode("utf-8", "backslashreplace")
        if field[0] != b"PK\x01\x02":
            broken(path, "its directory is cut off")
        if field[4] or packed != size or field[3] & _ENCRYPTED:
            unsafe(path, f"its entry {name[:100]!r} is compressed or encrypted, as torch.save never writes")
        if name in found:
            unsafe(path, f"its entry {name[:100]!r} is there twice")
        if not last <= at < until:
            unsafe(path, f"its entry {name[:100]!r} lies over another")
        local = os.pread(fd, 30 + name_bytes, at)
        if len(local) != 30 + name_bytes or local[:4] != _LOCAL or local[30:] != raw:
            unsafe(path, f"its entry {name[:100]!r} is not where the directory says")
        own_name, own_extra = struct.unpack_from("<2H", local, 26)
        begin = at + 30 + own_name + own_extra
        # In the order of the directory, which is that of the file: none lies over another.
        if own_name != name_bytes or begin + size > until:
            unsafe(path, f"its entry {name[:100]!r} lies over another")
        last = begin + size
        found[name] = Entry(begin, last)
    if position != len(directory):
        broken(path, "its directory has more than its entries")
    return found


def _large(extra: bytes, packed: int, size: int, at: int) -> tuple[int, int, int]:
    """The same numbers, from the field of 64 bits where they are there."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == _FIELD_64:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            # In this order, and only those that are marked.
            size = next(wide, size) if size == _LARGE else size
            packed = next(wide, packed) if packed == _LARGE else packed
            at = next(wide, at) if at == _LARGE else at
            break
        position += 4 + length
    return packed, size, at


def _below(path: Path, found: Mapping[str, Entry]) -> dict[str, Entry]:
    pickles = [name for name in found if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        unsafe(path, f"it has {len(pickles)} entries data.pkl, where torch.save writes one")
    prefix = pickles[0].removesuffix("data.pkl")
    below = {name.removeprefix(prefix): entry for name, entry in found.items() if name.startswith(prefix)}
    if script := next((name for name in below if name.startswith(_TORCHSCRIPT)), ""):
        unsafe(path, f"it is a TorchScript program (it has {script[:100]})")
    return below
