"""The durable map of what a partial file has: a side file beside it, one line of JSON that people can read.

There are two of them. What the one named `….pieces` tells is on the disk, and outlives a power cut. What
`….pieces.live` tells is in the file, and outlives the process: it counts until the machine starts again. The
first is replaced as a whole by a rename; the second grows by lines, of which the last counts. A map that
cannot be read, or tells of another object, counts as none.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from pathlib import Path

from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine.durable import replace_file

#: Of a live map, before it is begun anew.
_MOST_BYTES = 256 << 10
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def keep(partial: Path, object_id: str, have: ByteRanges, *, durable: bool) -> None:
    """Write down what a partial file has. A full disk leaves the map as it was: it tells less then.

    Args:
        partial: The file.
        object_id: Tells this object from another that was fetched into the same file before.
        have: Its bytes.
        durable: They are on the disk, and so shall be what is written down.
    """
    path = _path(partial, durable=durable)
    told = {"object": object_id, "boot": "" if durable else boot_id(), "ranges": have.ranges}
    text = json.dumps(told).encode() + b"\n"
    try:
        if not durable and _append(path, text):
            return
        replace_file(path, text, synced=durable)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def kept(partial: Path, object_id: str) -> ByteRanges | None:
    """What a partial file has of an object; None if no map tells."""
    found = [told[1] for told in _both(partial) if told[0] == object_id]
    return ByteRanges.of(pair for have in found for pair in have.ranges) if found else None


def recalled(partial: Path, object_id: str, have: ByteRanges, boot: str = "") -> ByteRanges:
    """What a partial file has of an object, by its map or as it was known in this run of the machine.

    Args:
        partial: The file.
        object_id: "" where no map can tell.
        have: What it was known to have.
        boot: In which run of the machine, where not all of that was on the disk; else "".
    """
    known = have if boot in ("", boot_id()) else ByteRanges()
    more = kept(partial, object_id) if object_id else None
    return known if more is None else ByteRanges.of([*known.ranges, *more.ranges])


def told(partial: Path) -> tuple[str, ByteRanges] | None:
    """Which object a partial file is of, and what it has of it; None if no map tells, or they disagree."""
    objects = {told[0] for told in _both(partial)}
    if len(objects) != 1:
        return None
    object_id = objects.pop()
    return object_id, kept(partial, object_id) or ByteRanges()


def forget(partial: Path) -> None:
    """Nothing of a partial file counts any more."""
    for durable in (True, False):
        _path(partial, durable=durable).unlink(missing_ok=True)


def _append(path: Path, text: bytes) -> bool:
    """Add a line; False where there is no file yet, or it is better begun anew.

    A rename would be as safe from a kill, but waits for the disk: it took ten milliseconds on a busy one.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.fstat(fd).st_size < _MOST_BYTES and os.write(fd, text) == len(text)
    finally:
        os.close(fd)


def _both(partial: Path) -> list[tuple[str, ByteRanges]]:
    found = [_read(_path(partial, durable=durable)) for durable in (True, False)]
    return [told for told in found if told is not None]


def _read(path: Path) -> tuple[str, ByteRanges] | None:
    try:
        told = json.loads(_last_line(path.read_bytes()))
        if told["boot"] not in ("", boot_id()):
            return None
        return str(told["object"]), ByteRanges.of((int(first), int(end)) for first, end in told["ranges"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _last_line(text: bytes) -> bytes:
    """The last line that is whole."""
    return text[: text.rfind(b"\n") + 1].rstrip(b"\n").rpartition(b"\n")[2]


def _path(partial: Path, *, durable: bool) -> Path:
    return partial.with_name(f"{partial.name}.pieces{'' if durable else '.live'}")


@functools.cache
def boot_id() -> str:
    """What tells one run of the kernel from the next; a random text where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return os.urandom(16).hex()
