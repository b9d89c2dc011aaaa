"""Which paths may be touched, opened so that nobody can swap a link in between; and who owns a root.

A path from a client or a record is first resolved, symbolic links included, and must then lie beneath
an allowed root. Opening goes down from the root's directory descriptor without following any link
(``openat2`` with RESOLVE_BENEATH, or the same by hand), so a link put there after the check is refused
and not followed.

Whatever the roots are, the suite's own data folder is not for callers: databases, tokens, sockets and logs
in it are no models. Only the models that lie in it are, see :class:`DataFolder`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelkeep.defaults import EXIT_CONFIG, EXIT_DATA, EXIT_NOT_WRITABLE
from modelkeep.exceptions import ForbiddenPathException
from modelkeep.locks import LockedError, take_lock
from modelkeep.private import make_above

from .auth.principal import OWNER, Principal
from .data_folder import DataFolder, real_path
from .startup import StartupError

#: The file in ``models_dir`` that holds its ``root_id``. Scans skip every name that begins like this.
MARKER = ".modelkeep-root"
#: The folder in a root for what is not whole yet, with one folder per job while it runs; scans leave it out.
STAGING = ".staging"

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08


class AllowedRoots:
    """The folders whose contents may be read, or written where the service does that.

    Args:
        roots: Folders; none allows nothing. ``/`` allows whatever the user can read, the data folder apart.
        data_dir: The suite's data folder, which none of the roots opens.
        models: Folders of models, which may be touched inside the data folder too.
        for_owner: Further folders, which only the owner of the suite may name; see :meth:`resolve`.
        setting: Name of the setting that lists the roots, for the errors' metadata.

    Raises:
        StartupError: 78 if a root lies in the data folder and not in its models, or as :class:`DataFolder`.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        data_dir: Path,
        models: Sequence[Path] = (),
        for_owner: Sequence[Path] = (),
        setting: str = "",
    ) -> None:
        self._for_all = tuple(map(real_path, roots))
        self.roots = (*self._for_all, *map(real_path, for_owner))
        self.setting = setting
        self._data = DataFolder(data_dir, models)
        for root in self.roots:
            if self._data.holds(root):
                raise StartupError(
                    EXIT_CONFIG,
                    f"{setting or 'roots'}: {root} lies in the data folder {self._data.path}, which "
                    "holds the suite's own files: choose a folder outside it",
                )

    def resolve(
        self,
        path: str | Path,
        *,
        base: Path | None = None,
        whole: bool = False,
        named_by: Principal | None = None,
    ) -> Path:
        """The real path, without links, of what must lie beneath a root (or be one).

        Args:
            path: What was asked for; it need not exist.
            base: What a relative path is relative to; without it, relative paths are refused.
            whole: All that is in a folder is meant as well: one that the data folder lies in is refused.
            named_by: The caller whose wish it is; unless he is the owner, the folders that are for the owner
                do not count. None: it is the service's own wish.

        Raises:
            ForbiddenPathException: It, or what its links lead to, lies outside every root, or belongs to the
                suite itself.
        """
        owner = named_by is None or named_by.has(OWNER)
        real = self._locate(path, base, self.roots if owner else self._for_all)[1]
        if whole and self._data.is_within(real):
            raise self._own(path)
        return real

    def allows(self, path: str | Path, *, base: Path | None = None) -> bool:
        """Whether :meth:`resolve` would accept it."""
        try:
            self.resolve(path, base=base)
        except ForbiddenPathException:
            return False
        return True

    def open_beneath(
        self, path: str | Path, flags: int = os.O_RDONLY, mode: int = 0o666, *, base: Path | None = None
    ) -> int:
        """Open a file or folder beneath a root and return its descriptor; the caller closes it.

        Raises:
            ForbiddenPathException: As :meth:`resolve`; also if a link appeared after the check.
            OSError: What the system says, as FileNotFoundError.
        """
        root, real = self._locate(path, base, self.roots)
        parts = real.relative_to(root).parts
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_beneath(root_fd, "/".join(parts) or ".", flags, mode)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EXDEV):
                raise self._forbidden(path) from None
            raise
        finally:
            os.close(root_fd)
        try:
            self.check_open(fd, path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check_open(self, fd: int, path: str | Path) -> None:
        """Refuses an open file or folder that is one of the suite's own, whatever it was opened as.

        For who goes down a tree by descriptors; :meth:`open_beneath` has done it.

        Raises:
            ForbiddenPathException: It is the suite's own.
        """
        if self._data.has_file(os.fstat(fd)):
            raise self._own(path)

    def _locate(self, path: str | Path, base: Path | None, roots: Sequence[Path]) -> tuple[Path, Path]:
        text = os.fspath(path)
        if not text or "\0" in text or (base is None and not text.startswith("/")):
            raise self._forbidden(path)
        try:
            real = Path(os.path.realpath(os.path.join(base, text) if base is not None else text))
        except (OSError, ValueError):
            raise self._forbidden(path) from None
        for root in roots:
            if real.is_relative_to(root):
                if self._data.holds(real) or self._is_own_file(real):
                    raise self._own(path)
                return root, real
        raise self._forbidden(path)

    def _is_own_file(self, real: Path) -> bool:
        try:
            return self._data.has_file(os.lstat(real))
        except (OSError, ValueError):
            return False  # not there, or a name that nothing can have

    def _forbidden(self, path: str | Path) -> ForbiddenPathException:
        # Says what was asked for, never where a link leads.
        text = os.fspath(path).replace("\0", "\\0")
        return ForbiddenPathException(
            f"{text!r} does not lie in a folder that this service may touch: use one of its roots, "
            "or have the operator allow the folder.",
            metadata={"path": text[:500], "setting": self.setting},
        )

    def _own(self, path: str | Path) -> ForbiddenPathException:
        text = os.fspath(path)
        return ForbiddenPathException(
            f"{text!r} belongs to the suite itself: of its data folder only the models may be touched. "
            "Use a folder outside it.",
            metadata={"path": text[:500], "setting": "data_dir"},
            remedy="Use a folder outside it.",
        )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(root_fd: int, relative: str, flags: int, mode: int = 0o666) -> int:
    """Open ``relative`` below a directory descriptor without following a single link.

    Raises:
        OSError: ELOOP for a link, EXDEV for a way out of the folder, and the system's others.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return _openat2(root_fd, relative, flags, mode)
    except OSError as error:
        # Old kernels lack it, and some containers' filters refuse it.
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return open_by_hand(root_fd, relative, flags, mode)


def _openat2(root_fd: int, relative: str, flags: int, mode: int) -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    how = _OpenHow(
        flags,
        mode if flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE else 0,
        _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_OPENAT2, root_fd, os.fsencode(relative), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), relative)
    return int(fd)


def open_by_hand(root_fd: int, relative: str, flags: int, mode: int = 0o666) -> int:
    """What ``openat2`` does, one path component at a time."""
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if relative.startswith("/") or ".." in parts:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), relative)
    here = os.dup(root_fd)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
            if os.path.islink(f"/proc/self/fd/{here}") and _is_link(here):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), relative)
        return os.open(parts[-1] if parts else ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=here)
    finally:
        os.close(here)


def _is_link(fd: int) -> bool:
    return stat.S_ISLNK(os.fstat(fd).st_mode)


def ensure_marker(models_dir: Path, *, create: bool = True) -> str:
    """The ``root_id`` of a models folder, made at first use.

    Args:
        models_dir: The folder; made as well if need be.
        create: False for who may only read; a folder without a marker is an error then.

    Raises:
        StartupError: 73 if the folder cannot be written, 65 if the marker is broken or missing.
    """
    marker = models_dir / MARKER
    try:
        if create:
            make_above(models_dir)
            models_dir.mkdir(exist_ok=True)
            if not marker.exists():
                _write_marker(marker)
        text = marker.read_text("ascii").strip()
        return str(uuid.UUID(text))
    except FileNotFoundError:
        raise StartupError(
            EXIT_DATA, f"{models_dir} has no {MARKER}: it is not a models folder (yet)"
        ) from None
    except ValueError:
        raise StartupError(
            EXIT_DATA, f"{marker} is broken: it must hold the UUID of this models folder"
        ) from None
    except OSError as error:
        raise _not_writable(models_dir, error.strerror) from None


def _not_writable(folder: Path, why: str | None) -> StartupError:
    return StartupError(
        EXIT_NOT_WRITABLE,
        f"cannot write {folder}: {why}. Change its owner or mode, or set another folder",
    )


def _write_marker(marker: Path) -> None:
    temporary = marker.with_name(f"{MARKER}.{os.getpid()}.new")
    try:
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{uuid.uuid4()}\n")
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave a marker with nothing in it
        # A link, unlike a rename, never replaces the marker that somebody else was quicker to make.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, marker)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_root(models_dir: Path, *, role: str = "install") -> Iterator[str]:
    """Hold the models folder for one process per role; gives its ``root_id``.

    Raises:
        StartupError: 73 if another suite's process in this role has it, or it cannot be written.
    """
    root_id = ensure_marker(models_dir)
    for folder in (models_dir, models_dir / STAGING):
        # Marker and lock may be there from better times.
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise _not_writable(folder, os.strerror(errno.EACCES))
    with lock_file(models_dir / f"{MARKER}.{role}.lock", f"the models folder {models_dir}"):
        yield root_id


@contextlib.contextmanager
def lock_file(path: Path, what: str, *, taken: int = EXIT_NOT_WRITABLE) -> Iterator[None]:
    """Hold a lock that ends with this process, also when it is killed.

    Raises:
        StartupError: `taken` if another process holds it, 73 if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = take_lock(path)
    except LockedError as error:
        holder = f" ({error.holder})" if error.holder else ""
        raise StartupError(
            taken, f"{what} is in use by another process{holder}: stop that one, or set another folder"
        ) from None
    except OSError as error:
        raise StartupError(EXIT_NOT_WRITABLE, f"cannot write {path}: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(descriptor)
