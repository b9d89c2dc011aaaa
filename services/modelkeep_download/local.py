"""The data path of a local-path job: copying a file or a folder, with the same checks as a download."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from modelkeep.exceptions import ForbiddenPathException, SourceChangedException, SourceNotFoundException
from modelkeep_download.transfer import BUFFER_BYTES, Credentials, Head, Observer, Partial, Sink, digest_of
from modelkeep_download.transport import StopSignal


def source_missing(path: Path) -> SourceNotFoundException:
    """The error for a local source that is not there."""
    return SourceNotFoundException(
        f"there is no file or folder {path}", metadata={"source": str(path), "path": str(path)}
    )


def validator_of(path: Path) -> str:
    """What tells a file's present content from another: size, time of change and inode."""
    found = path.stat()
    return f'"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"'


class LocalTransfer:
    """Copies one local file; a `modelkeep_download.transfer.Transfer` whose URL is a path."""

    def __init__(self, *, checkpoint_bytes: int, checkpoint_s: float) -> None:
        self._checkpoint_bytes, self._checkpoint_s = checkpoint_bytes, checkpoint_s

    def run(self, source: Credentials, partial: Partial, observer: Observer, stop: StopSignal) -> str:
        """See `Transfer.run`."""
        path = Path(source.url)
        try:
            reader = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise source_missing(path) from None
        writer = os.open(partial.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            validator, size = validator_of(path), os.fstat(reader).st_size
            offset = partial.offset if partial.validator == validator else 0
            if partial.offset and (not offset or os.fstat(writer).st_size < offset):
                observer.restarted("the local file changed", changed=True)
                offset = 0
            os.ftruncate(writer, offset)
            digest = digest_of(writer, offset, stop)
            observer.responded(Head(size, validator, path.name, "", ""), offset=offset)
            sink = Sink(writer, digest, offset, observer, self._checkpoint_bytes, self._checkpoint_s)
            buffer = memoryview(bytearray(BUFFER_BYTES))
            try:
                while count := os.preadv(reader, [buffer], sink.at):
                    stop.check()
                    sink.write(buffer[:count])
                stop.check()
            except BaseException:
                sink.checkpoint()
                raise
            if sink.at != size or validator_of(path) != validator:
                raise SourceChangedException(
                    f"{path} changed while it was copied", metadata={"source": str(path)}
                )
            return digest.hexdigest()
        finally:
            os.close(writer)
            os.close(reader)


def hash_file(path: Path, advanced: Callable[[int], None], stop: StopSignal) -> str:
    """SHA-256 of a file that stays where it is until it is moved."""
    digest, done = hashlib.sha256(), 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            stop.check()
            digest.update(buffer[:count])
            done += count
            advanced(done)
    return digest.hexdigest()


def tree_size(folder: Path) -> int:
    """Sum of the sizes of a folder's files in bytes."""
    return sum(path.stat().st_size for path in _files(folder))


def copy_tree(
    source: Path,
    copy: Path,
    allowed: Callable[[Path], object],
    advanced: Callable[[int], None],
    stop: StopSignal,
) -> None:
    """Copy a folder to a new one, every file durable. What was half copied before is removed first.

    Args:
        source: The folder.
        copy: The folder to make.
        allowed: Raises for a path that may not be read; asked for what symbolic links lead to.
        advanced: Told the bytes copied so far.
        stop: Ends the copy.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    done = 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    folders = {copy}
    for path in _files(source):
        if path.is_symlink():
            allowed(path)
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.update(p for p in target.parents if p.is_relative_to(copy))
        with path.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
            while count := reader.readinto(buffer):
                stop.check()
                view = buffer[:count]
                while view:
                    view = view[writer.write(view) :]
                done += count
                advanced(done)
            os.fsync(writer.fileno())
    for folder in folders:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def remove_copied(source: Path, copy: Path) -> None:
    """Remove what was copied, and nothing else: a file that came or changed since the copy stays.

    Args:
        source: The folder that was moved, on another file system than its copy.
        copy: The copy; its files were written after those of the source were read.
    """
    for parent, _, names in os.walk(source, topdown=False, followlinks=False):
        for name in names:
            path = Path(parent) / name
            try:
                before, after = path.stat(), (copy / path.relative_to(source)).stat()
            except FileNotFoundError:
                continue
            if before.st_size == after.st_size and before.st_mtime_ns <= after.st_mtime_ns:
                path.unlink()
        with contextlib.suppress(OSError):  # not empty: what stays, stays in its folder
            os.rmdir(parent)


def _files(folder: Path) -> Iterator[Path]:
    """Every file beneath a folder, in a stable order; refuses links to folders, devices and sockets."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted([*names, *(f for f in folders if (Path(parent) / f).is_symlink())]):
            path = Path(parent) / name
            if not stat.S_ISREG(path.stat().st_mode):
                raise ForbiddenPathException(
                    f"{path} is no regular file", metadata={"path": str(path), "setting": "import_roots"}
                )
            yield path
