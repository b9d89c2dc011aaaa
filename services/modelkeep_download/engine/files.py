"""The file system's part of a job: staging folder, delivery without replacing, quarantine.

A job's partial file lies in `<root>/.staging/download-<id>/`, on the destination's own file system, so
that delivery is one rename, which replaces a file only where that was asked for. Folders are opened beneath
their root component by component without following symbolic links.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from modelkeep.exceptions import (
    DestinationExistsException,
    FieldInvalidException,
    FieldViolation,
    ForbiddenPathException,
    SourceNotFoundException,
)
from modelkeep_common.paths import STAGING

PARTIAL = "data"
QUARANTINED = "quarantined"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
#: Files of a folder whose room is freed behind its removal, and how long that is waited for.
_MOST_HELD, _FREE_S = 64, 0.1
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_KEEP_SIZE = 1
_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
_fallocate = getattr(_libc, "fallocate64", None)


def forbidden(path: Path, *, setting: str = "download_roots") -> ForbiddenPathException:
    """The error for a path that leads out of every allowed root, or into what belongs to the service."""
    return ForbiddenPathException(
        f"{path} lies outside the allowed folders, or belongs to the service itself",
        metadata={"path": str(path), "setting": setting},
    )


def is_staging(path: Path) -> bool:
    """Whether a path is the staging folder of a job, or lies in one."""
    return any(
        folder.parent.name == STAGING and folder.name.startswith("download-")
        for folder in (path, *path.parents)
    )


def destination_exists(path: Path) -> DestinationExistsException:
    """The error for a destination that is taken."""
    remedy = f"Move {path} away, or choose another destination."
    if _is_file(path):
        remedy = f"Move {path} away, choose another destination, or have it replaced (replace_existing)."
    return DestinationExistsException(
        f"{path} exists and is not replaced; remove it, or choose another name",
        metadata={"path": str(path)},
        remedy=remedy,
    )


def check_free(target: Path, *, replaces: bool) -> None:
    """Make sure that a file can be brought to a path.

    Raises:
        DestinationExistsException: Something is there; with `replaces`, something else than a plain file.
    """
    if inode_of(target) is not None and not (replaces and _is_file(target)):
        raise destination_exists(target)


def source_missing(path: Path) -> SourceNotFoundException:
    """The error for a local source that is not there."""
    return SourceNotFoundException(
        f"there is no file or folder {path}", metadata={"source": str(path), "path": str(path)}
    )


def open_folder(root: Path, folder: Path, *, create: bool = False, durable: bool = True) -> int:
    """Descriptor of a folder beneath (or equal to) a root; the caller closes it.

    Args:
        root: The root.
        folder: The folder.
        create: Make what is missing.
        durable: What is made outlives a power cut.

    Raises:
        ForbiddenPathException: It is not beneath the root, or a symbolic link is on the way.
        FileNotFoundError: It does not exist and `create` is false.
    """
    try:
        parts = folder.relative_to(root).parts
    except ValueError:
        raise forbidden(folder) from None
    if ".." in parts:
        raise forbidden(folder)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    here = root
    try:
        for part in parts:
            here = here / part
            with named(here):
                try:
                    below = os.open(part, _FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    try:
                        os.mkdir(part, 0o755, dir_fd=fd)
                        if durable:
                            os.fsync(fd)
                    except FileExistsError:
                        pass
                    below = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise forbidden(folder) from error
        raise
    return fd


def make_staging(root: Path, destination: Path, job_id: int) -> Path:
    """Make the staging folder of a job whose destination lies beneath the root.

    Its name is the job's number, and more where a job of another service, which writes there as well, has a
    folder of that name. A power cut may take it away again: the job then begins anew.
    """
    base = root
    existing = destination
    while not existing.is_dir():
        existing = existing.parent
    if mount_at(existing) != mount_at(root):
        base = existing  # another file system is mounted inside the root
    names = [f"download-{job_id}", *(f"download-{job_id}-{secrets.token_hex(4)}" for _ in range(4))]
    for name in names:
        folder = open_folder(root, base / STAGING, create=True, durable=False)
        try:
            # The other service may have taken the folder above away just now, since nothing was in it.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(name, 0o755, dir_fd=folder)
                return base / STAGING / name
        finally:
            os.close(folder)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(base / STAGING / names[0]))


def mount_of(fd: int) -> tuple[int, str]:
    """What a rename cannot leave: the device and, where the system tells, the mount.

    One device may be mounted at two places, as the folders of one volume in a container are.
    """
    mount = ""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as facts:
        mount = next((line for line in facts if line.startswith("mnt_id:")), "")
    return os.fstat(fd).st_dev, mount


def mount_at(folder: Path) -> tuple[int, str]:
    """`mount_of` a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mount_of(fd)
    finally:
        os.close(fd)


def remove_staging(staging: str) -> None:
    """Remove a job's staging folder with all in it; nothing else can ever be meant."""
    folder = Path(staging)
    if staging and folder.parent.name == STAGING and folder.name.startswith("download-"):
        with _freed_soon(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _freed_soon(folder: Path) -> Iterator[None]:
    """Around the removal of a folder: on a busy disk, nobody waits long until the room of its files is free.

    A file with pages on their way to the disk is freed only when they have arrived: here by its last close.
    """
    held = list[int]()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MOST_HELD):
            if entry.is_file(follow_symlinks=False):
                held.append(os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    try:
        yield
    finally:
        if held:
            closing = threading.Thread(target=_close_all, args=(held,), name="modelkeep-free", daemon=True)
            closing.start()
            closing.join(_FREE_S)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def remove_orphans(roots: Iterable[Path], known: Collection[str]) -> None:
    """Remove the staging folders beneath the roots that no job knows of: a kill left them."""
    for root in roots:
        for folder in root.glob(f"{STAGING}/download-*"):
            if str(folder) not in known:
                remove_staging(str(folder))


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Around what goes by a descriptor: an error tells the path, of which the system knows only the end."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def no_right(error: OSError, beneath: Path) -> ForbiddenPathException:
    """The error for a file or folder that this process's user may not read, write or remove.

    Args:
        error: What the system says.
        beneath: Where that is, if the error tells no path or only the end of one.
    """
    name, target = error.filename, error.filename2
    path = what = str(beneath)
    if isinstance(target, str):
        path, what = target, f"to move {name} to {target}"
    elif isinstance(name, str):
        path, what = (name, name) if os.path.isabs(name) else (path, f"{name} in {beneath}")
    remedy = "Give the user that runs DownloadService the right to it, then try again."
    return ForbiddenPathException(
        f"The file system refuses {what}: {error.strerror}. {remedy}",
        metadata={"path": path, "setting": "", "remedy": remedy},
    )


def unusable_name(error: OSError) -> FieldInvalidException | None:
    """The error for a path that the file system cannot have; None if that is not what it says."""
    if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP):
        return None
    why = (error.strerror or "cannot be used").lower()
    return FieldInvalidException(
        f"{str(error.filename or 'a file')[:500]!r} cannot be used: {why}. Choose a shorter destination, "
        "or rename what is taken.",
        violations=[FieldViolation("destination", why)],
    )


def inode_of(path: Path, *, folder: int | None = None) -> tuple[int, int] | None:
    """(device, inode) of what is at the path itself, not behind a link; None if nothing is."""
    try:
        found = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return inode_in(found)


def _is_file(path: Path, *, folder: int | None = None) -> bool:
    """Whether a plain file is at the path itself."""
    try:
        return stat.S_ISREG(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def inode_in(found: os.stat_result) -> tuple[int, int]:
    """(device, inode) as the system tells them."""
    return found.st_dev, found.st_ino


def raise_error(error: OSError) -> None:
    """For `os.fwalk`, which would pass over a folder that cannot be read, and call the rest the whole."""
    raise error


def sync_folder(path: Path) -> None:
    """Make durable what a folder has and lacks."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(path: Path, *, folder: int | None = None) -> tuple[int, int]:
    """Make a file durable, or a folder with all in it; returns its (device, inode).

    Args:
        path: The file or folder; with `folder`, its last component is looked for there.
        folder: Descriptor of the folder that it lies in.
    """
    with named(path):
        top = os.open(path if folder is None else path.name, _FILE, dir_fd=folder)
    try:
        if stat.S_ISDIR(os.fstat(top).st_mode):
            for _, _, names, below in os.fwalk(".", onerror=raise_error, dir_fd=top):
                for name in names:
                    fd = os.open(name, _FILE, dir_fd=below)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
                os.fsync(below)
        os.fsync(top)
        return inode_in(os.fstat(top))
    finally:
        os.close(top)


def deliver(
    staged: Path,
    root: Path,
    target: Path,
    *,
    parent: int | None = None,
    replaces: bool = False,
    synced: bool = True,
) -> None:
    """Rename the staged file or folder to the target beneath the root, and make that durable.

    At every moment there is one whole file at the target, the old one or the new one. Doing it again after a
    crash in the middle is harmless.

    Args:
        staged: The file or folder; with `parent`, its last component is looked for there.
        root: The download root.
        target: Where it goes.
        parent: Descriptor of the folder that it lies in.
        replaces: Whether a plain file may give way to a plain file; nothing else ever does.
        synced: Make it durable; else the caller does so for many at once.

    Raises:
        DestinationExistsException: Something is at the target.
        ForbiddenPathException: The target's folder has come to lie outside the root.
    """
    folder = open_folder(root, target.parent, create=True)
    try:
        name = staged if parent is None else Path(staged.name)
        # Looked at in the very folder, right before: a link that comes in between is replaced itself, never
        # what it leads to.
        if replaces and _is_file(Path(target.name), folder=folder) and _is_file(name, folder=parent):
            with named(target):
                os.rename(name, target.name, src_dir_fd=parent, dst_dir_fd=folder)
        else:
            _rename_without_replacing(staged, parent, folder, target)
        if synced:
            os.fsync(folder)
    finally:
        os.close(folder)


def _rename_without_replacing(staged: Path, parent: int | None, folder: int, target: Path) -> None:
    name = staged if parent is None else Path(staged.name)
    if _renameat2 is not None:
        source = (_AT_FDCWD if parent is None else parent, os.fsencode(name))
        code = _renameat2(*source, folder, os.fsencode(target.name), _RENAME_NOREPLACE)
        if code == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EEXIST:
            raise destination_exists(target)
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number), str(staged), None, str(target))
    # A file system without renameat2: a hard link never replaces either. Folders have no such way.
    with named(target):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            if inode_of(target) is not None:
                raise destination_exists(target)
            os.rename(name, target.name, src_dir_fd=parent, dst_dir_fd=folder)
            return
        try:
            os.link(name, target.name, src_dir_fd=parent, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            if inode_of(target) != inode_of(name, folder=parent):
                raise destination_exists(target) from None
        os.unlink(name, dir_fd=parent)


def quarantine(partial: Path) -> Path:
    """Set a wrong file apart inside its staging folder; returns where it is."""
    kept = partial.with_name(partial.name.replace(PARTIAL, QUARANTINED))
    os.replace(partial, kept)
    sync_folder(kept.parent)
    return kept


def reserve(partial: Path, total: int) -> bool:
    """Have the file system keep room for all bytes of a file; False if it has no such way.

    Raises:
        OSError: There is no room.
    """
    if _fallocate is None:
        return False
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        if not total or _fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(total)) == 0:
            return True
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return False
        raise OSError(number, os.strerror(number), str(partial))
    finally:
        os.close(fd)


def room_of(path: Path) -> int:
    """Bytes that a file takes on its file system, those reserved for it included; 0 if there is none."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0


def room_in(folder: str | Path) -> int:
    """Bytes that the files of a staging folder take, those reserved for them included."""
    if not folder:
        return 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in found)
    return 0
