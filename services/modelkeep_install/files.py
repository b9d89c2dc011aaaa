"""Placing models in ``models_dir``: copies, renames and deletions that a kill cannot leave half done.

A copy is made in the staging folder, made durable, and appears under its final name by one rename; so
whatever has the final name is whole. Installed files are 0444: they are replaced, never rewritten.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelkeep.exceptions import DestinationExistsException, InvalidModelException, SourceChangedException
from modelkeep_common.copies import NOT_IN_KERNEL
from modelkeep_common.file_names import FORBIDDEN, is_device
from modelkeep_common.modes import read_only_in
from modelkeep_common.room import Claim
from modelkeep_common.wire import clamped_time

from .domain.system_errors import no_regular_file, reading, writing
from .hashing import Interrupted
from .probe.readers.headers import Opener, open_regular

_FICLONE = 0x40049409  # _IOW(0x94, 9, int): share the source's blocks (btrfs, XFS, bcachefs)
_COPY_BYTES = 16 << 20
_READ_BYTES = 1 << 20

#: File systems keep times more coarsely than they first tell them.
_SAME_TIME_S = 0.01

Advance = Callable[[int], None]


def check_name(name: str) -> str:
    """One component that every file system takes as itself, or an error.

    Raises:
        InvalidModelException: Empty, dots, separators, control characters, a device's name, or too long.
    """
    bad = (
        name in ("", ".", "..")
        or len(os.fsencode(name)) > 255
        or any(c in FORBIDDEN or unicodedata.category(c) == "Cc" for c in name)
        or name.endswith((" ", "."))
        or is_device(name)
        or name.startswith(".modelkeep-root")
    )
    if bad:
        raise InvalidModelException(
            f"{name!r} cannot be the name of an installed file.",
            metadata={"path": name, "detail": "unsafe name"},
            remedy="Rename it, then install again.",
        )
    return name


def check_relative(paths: Iterable[str]) -> None:
    """Every path goes down only, by safe names, and no two differ by case alone.

    Raises:
        InvalidModelException: As said.
    """
    seen: dict[str, str] = {}
    for path in paths:
        for part in PurePosixPath(path).parts:
            check_name(part)
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            raise InvalidModelException(
                f"{path!r} and {other!r} differ by case alone, which not every file system can keep apart.",
                metadata={"path": path, "detail": "names clash by case"},
                remedy="Rename one of them, then install again.",
            )


@dataclass(slots=True)
class Copying:
    """How files are copied, and how far that is.

    Attributes:
        opener: Opens a source.
        advance: Told how many bytes more are copied.
        stop: Asked before each block; true ends the work.
        claim: Told before each block how much room on the disk is still to be taken.
        total_bytes: Size of all that is copied.
        link: Make another name of each file, without a byte copied, where the file system takes that.
        done_bytes: What of that is copied.
    """

    opener: Opener = open_regular
    advance: Advance = lambda count: None
    stop: Callable[[], bool] = lambda: False
    claim: Claim | None = None
    total_bytes: int = 0
    link: bool = False
    done_bytes: int = 0

    def went_on(self, count: int) -> None:
        """So many bytes more are copied."""
        self.done_bytes += count
        self.advance(count)

    def ask_for_room(self) -> None:
        """DiskFullException, with how much is missing, unless there is room for what is left to copy."""
        if self.claim is not None:
            self.claim.want(max(1, self.total_bytes - self.done_bytes))


def copy_model(source: Path, names: Iterable[str], staging: Path, how: Copying) -> Path:
    """Copies a file, or the given files of a folder, into a staging folder that is made anew; gives where.

    Raises:
        InvalidModelException: A name in it is not safe.
        ModelkeepError: As :func:`copy_file`; what is staged by then is the caller's to remove.
    """
    target = staging / check_name(source.name)
    remove_tree(staging)  # what a kill left of an earlier try
    with writing(staging):
        staging.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            copy_tree(source, names, target, how)
        else:
            copy_file(source, target, how)
        sync_folder(staging)
    return target


def copy_file(source: Path, target: Path, how: Copying | None = None) -> int:
    """Copies one file durably; shares the blocks where the file system can. Returns its size in bytes.

    Raises:
        DestinationExistsException: There is something at ``target`` already.
        SourceChangedException: It was written to meanwhile.
        ModelkeepError: It cannot be read or written; see ``system_errors``.
        Interrupted: ``stop`` said so; the caller removes what is there.
    """
    how = how or Copying()
    with how.opener(source) as file, writing(target):
        size = os.fstat(file.fileno()).st_size
        if how.link and _link(file.fileno(), target):
            how.went_on(size)
            return size
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            before = os.fstat(file.fileno())
            size = before.st_size
            if _reflink(file.fileno(), out):
                how.went_on(size)
            else:
                size = _copy_bytes(source, file.fileno(), out, how)
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise source_changed(source)
            os.fchmod(out, read_only_in(target.parent))
            os.fsync(out)
        finally:
            os.close(out)
    return size


def _link(descriptor: int, target: Path) -> bool:
    """Makes another name of an open file; whether that could be done."""
    # through its descriptor: no link that came into its path since it was opened is followed
    here = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    try:
        os.link(str(descriptor), target, src_dir_fd=here, follow_symlinks=True)
    except FileExistsError:
        raise
    except OSError:
        return False  # another file system, one without links, or a file of another user
    finally:
        os.close(here)
    return True


def source_changed(source: Path) -> SourceChangedException:
    """The error of a model that somebody writes to while it is installed."""
    return SourceChangedException(
        f"{source} changed while it was installed: install it again when it is complete.",
        metadata={"source": str(source)},
    )


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_bytes(path: Path, source: int, target: int, how: Copying) -> int:
    total = 0
    in_kernel = True
    while True:
        if how.stop():
            raise Interrupted
        how.ask_for_room()
        if in_kernel:
            try:
                count = os.copy_file_range(source, target, _COPY_BYTES)
            except OSError as error:
                if error.errno not in NOT_IN_KERNEL:
                    raise
                in_kernel = False
                continue
        else:
            # not sendfile: some file systems cannot, and it does not tell a bad source from a bad target
            with reading(path):
                block = os.read(source, _READ_BYTES)
            _write_all(target, block)
            count = len(block)
        if count == 0:
            return total
        total += count
        how.went_on(count)


def _write_all(target: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(target, rest) :]


def copy_tree(source: Path, files: Iterable[str], target: Path, how: Copying | None = None) -> None:
    """Copies the given files of a folder, durably; links become what they lead to.

    ``target`` must not exist.

    Raises:
        InvalidModelException: A name is not safe, or two differ by case alone.
        ModelkeepError: As :func:`copy_file`.
    """
    files = list(files)
    check_relative(files)
    with writing(target):
        target.mkdir()
        folders = {target}
        for name in files:
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            parent = place.parent
            while parent != target:
                folders.add(parent)
                parent = parent.parent
            copy_file(source / name, place, how)
    for folder in folders:
        sync_folder(folder)


def place(staged: Path, target: Path, *, read_only: bool = True) -> None:
    """Gives staged files their final name, durably, by one rename; does nothing if it has been done.

    Args:
        staged, target: Where they are, and where they shall be.
        read_only: Make them read-only before.

    Raises:
        DestinationExistsException: Something else is at ``target``.
        InvalidModelException: Neither the staged nor the final name exists.
        ModelkeepError: The system does not let it; see ``system_errors``.
    """
    if not os.path.lexists(staged):
        if os.path.lexists(target):
            return  # an earlier run came this far
        raise InvalidModelException(
            f"The staged files vanished: {staged}.",
            metadata={"path": str(staged), "detail": "vanished"},
            remedy="Install it again.",
        )
    if os.path.lexists(target):
        raise DestinationExistsException(
            f"There is a file at {target} already.", metadata={"path": str(target)}
        )
    with writing(target):
        if read_only:
            make_read_only(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(staged, target)
        sync_folder(target.parent)
        sync_folder(target.parent.parent)
        sync_folder(staged.parent)


def make_read_only(path: Path) -> None:
    """Takes the right to write from a file, or from all files of a folder."""
    if path.is_dir():
        for current, _, names in os.walk(path):
            for name in names:
                os.chmod(os.path.join(current, name), read_only_in(Path(current)))
    else:
        os.chmod(path, read_only_in(path.parent))


def make_folder(path: Path) -> None:
    """Makes a folder of ours, or finds it.

    Raises:
        ModelkeepError: The system does not let it; see ``system_errors``.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """Removes a folder of ours with all that is in it; what is gone already is fine."""
    # never follows links; "ignore" because a peer may remove its own files at the same time
    shutil.rmtree(path, ignore_errors=True)


def remove_empty(folder: Path, *, above: Path) -> None:
    """Removes a folder and its parents up to, not including, ``above``, as long as they are empty."""
    while folder != above and folder.is_relative_to(above):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_facts(path: Path) -> tuple[int, float]:
    """(size in bytes, time of the last modification in seconds) of a regular file.

    Raises:
        InvalidModelException: It is no regular file.
        ModelkeepError: It cannot be looked at; see ``system_errors``.
    """
    with reading(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise no_regular_file(path)
    return status.st_size, clamped_time(status.st_mtime)


def is_same_time(one: float, other: float) -> bool:
    """Whether two times of modification are of one state of a file."""
    return abs(one - other) <= _SAME_TIME_S
