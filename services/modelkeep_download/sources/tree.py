"""Files and folders of this host, as sources: opened, measured, copied, hashed, removed.

Sources are opened beneath their allowed root by descriptor, what symbolic links lead to included, and
everything after that goes through the descriptor: what is swapped after a check is not followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from modelkeep.exceptions import FieldInvalidException, ForbiddenPathException
from modelkeep_common.paths import AllowedRoots
from modelkeep_common.wire import clamped_int
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine import files
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import BUFFER_BYTES

# Opening a pipe must not wait for its writer.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT = os.O_RDONLY | os.O_DIRECTORY
#: What opening a socket says, or a device without a driver.
_NO_FILE = (errno.ENXIO, errno.ENODEV)
#: A folder is taken as a whole; one beyond these is no model, but somebody's disk.
_MAX_DEPTH, _MAX_ENTRIES = 64, 100_000


def open_source(roots: AllowedRoots, path: Path) -> int:
    """Descriptor of a local file or folder; the caller closes it.

    Raises:
        SourceNotFoundException: There is none.
        ForbiddenPathException: It does not lie beneath a root, or is neither file nor folder.
    """
    try:
        with files.named(path):
            fd = roots.open_beneath(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        raise files.source_missing(path) from None
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _notregular(path) from None
        raise
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        return regular(fd, path)
    return fd


@contextlib.contextmanager
def folder_of(roots: AllowedRoots, path: Path) -> Iterator[int]:
    """Descriptor of the folder that a source lies in, to rename it or to remove it there."""
    try:
        with files.named(path.parent):
            fd = roots.open_beneath(path.parent, _PARENT)
    except (FileNotFoundError, NotADirectoryError):
        raise files.source_missing(path) from None
    try:
        if os.path.realpath(f"/proc/self/fd/{fd}") != str(path.parent):
            # A link has come to stand on the way: it may lead into what only another service changes.
            raise files.source_missing(path)
        yield fd
    finally:
        os.close(fd)


def validator_of(found: os.stat_result) -> str:
    """What tells a file's present content from another: size, time of change and inode."""
    return f'"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"'


def hash_file(path: Path, fd: int, advanced: Callable[[int], None], stop: StopSignal) -> str:
    """SHA-256 of a file that stays where it is until it is moved.

    Raises:
        StartOver: It changed meanwhile.
    """
    digest, done, found = hashlib.sha256(), 0, os.fstat(fd)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while count := os.preadv(fd, [buffer], done):
        stop.check()
        digest.update(buffer[:count])
        done += count
        advanced(done)
    check_unchanged(path, fd, found, done)
    return digest.hexdigest()


def has_other_names(fd: int) -> bool:
    """Whether an open file is reached by other names too, which hard links are."""
    return os.fstat(fd).st_nlink > 1


def measure_tree(roots: AllowedRoots, folder: Path, fd: int) -> tuple[int, bool]:
    """Sum of the sizes of a folder's files in bytes, and whether some are links or have other names.

    Raises:
        ForbiddenPathException: As `copy_tree`.
    """
    total, has_links = 0, False
    for here, _, names, below in _walk(fd):
        roots.check_open(below, folder / here)
        for name in names:
            has_links = has_links or _is_link(name, below)
            with _opened(roots, folder / here / name, below) as reader:
                total += os.fstat(reader).st_size
                has_links = has_links or has_other_names(reader)
    # Sparse files may claim more together than the wire can say.
    return clamped_int(total), has_links


def copy_tree(
    roots: AllowedRoots,
    folder: Path,
    fd: int,
    copy: Path,
    advanced: Callable[[int], None],
    stop: StopSignal,
) -> None:
    """Copy a folder to a new one, which gets the contents of what links lead to.

    What was half copied before is removed first. Files keep their time of change: `remove_copied` goes
    by it.

    Args:
        roots: Where sources may lie.
        folder: The folder.
        fd: Its descriptor.
        copy: The folder to make.
        advanced: Told the bytes copied so far.
        stop: Ends the copy.

    Raises:
        ForbiddenPathException: A link leads out of the roots or to a folder, or there is something that
            is neither file nor folder.
        StartOver: A file changed while it was copied.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    done = 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for here, folders, names, below in _walk(fd):
        roots.check_open(below, folder / here)
        for name in folders:
            (copy / here / name).mkdir()
        for name in names:
            path = folder / here / name
            with _opened(roots, path, below) as reader, (copy / here / name).open("xb", 0) as writer:
                found, size = os.fstat(reader), 0
                while count := os.preadv(reader, [buffer], size):
                    stop.check()
                    view = buffer[:count]
                    while view:
                        view = view[writer.write(view) :]
                    size += count
                    advanced(done + size)
                check_unchanged(path, reader, found, size)
                os.utime(writer.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
                done += size


def remove_copied(roots: AllowedRoots, folder: Path, copy: Path) -> None:
    """Remove what was copied, and nothing else: a file that came or changed since the copy stays.

    Args:
        roots: Where sources may lie.
        folder: The folder that was moved, on another file system than its copy.
        copy: The copy.
    """
    with folder_of(roots, folder) as parent:

        def walk() -> Iterator[tuple[str, list[str], list[str], int]]:
            return os.fwalk(folder.name, topdown=False, dir_fd=parent)

        def copied(here: str, name: str, fd: int) -> bool:
            try:
                before = os.stat(name, dir_fd=fd)
                after = (copy / Path(here).relative_to(folder.name) / name).stat()
            except FileNotFoundError:
                return False
            return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)

        # What a link leads to tells whether it was copied, and may lie in the folder, too: links go first.
        links = {
            (here, name)
            for here, _, names, fd in walk()
            for name in names
            if copied(here, name, fd) and _is_link(name, fd)
        }
        for here, _, names, fd in walk() if links else ():
            for name in names:
                if (here, name) in links and _is_link(name, fd):
                    os.unlink(name, dir_fd=fd)
        for here, folders, names, fd in walk():
            for name in names:
                if copied(here, name, fd):
                    os.unlink(name, dir_fd=fd)
            for name in folders:
                with contextlib.suppress(OSError):  # not empty: what stays, stays in its folder
                    os.rmdir(name, dir_fd=fd)
        with contextlib.suppress(OSError):
            os.rmdir(folder.name, dir_fd=parent)


def _walk(fd: int) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Each folder of a tree from its top: relative path, folders, other names, and its descriptor.

    Raises:
        FieldInvalidException: It is deeper, or holds more, than any model does.
    """
    entries = 0
    for here, folders, names, below in os.fwalk(".", onerror=files.raise_error, dir_fd=fd):
        entries += len(folders) + len(names)
        if entries > _MAX_ENTRIES:
            raise _no_model(f"holds more than {_MAX_ENTRIES:,} files and folders")
        if folders and here.count("/") >= _MAX_DEPTH:
            raise _no_model(f"has folders more than {_MAX_DEPTH} deep")
        links = [name for name in folders if _is_link(name, below)]
        folders[:] = sorted(set(folders) - set(links))
        yield here, folders, sorted([*names, *links]), below


def _no_model(why: str) -> FieldInvalidException:
    return bad_source(f"{why}, as no model does: take the part of it that is one", "source.local_path.path")


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


@contextlib.contextmanager
def _opened(roots: AllowedRoots, path: Path, folder: int) -> Iterator[int]:
    """Descriptor of a file in an open folder, or of the one in the roots that a link there leads to."""
    if _is_link(path.name, folder):
        fd = regular(open_source(roots, path), path)
    else:
        try:
            with files.named(path):
                fd = regular(os.open(path.name, _READ, dir_fd=folder), path)
        except OSError as error:
            if error.errno in (errno.ELOOP, *_NO_FILE):  # ELOOP: a link since the line above
                raise _notregular(path) from None
            raise
    try:
        roots.check_open(fd, path)
        yield fd
    finally:
        os.close(fd)


def regular(fd: int, path: Path) -> int:
    """The descriptor, if it is a regular file's; closed and ForbiddenPathException if not."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _notregular(path)


def _notregular(path: Path) -> ForbiddenPathException:
    return ForbiddenPathException(
        f"{path} is no regular file", metadata={"path": str(path), "setting": "import_roots"}
    )


def check_unchanged(path: Path, fd: int, before: os.stat_result, size: int) -> None:
    """Raise StartOver unless a file is as it was before, and so many bytes of it were read."""
    if size != before.st_size or validator_of(os.fstat(fd)) != validator_of(before):
        raise StartOver(f"{path} changed while it was read", changed=True)
