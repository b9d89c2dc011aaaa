"""What is one user's alone: folders at places that others can write to as well, and files of secrets.

The sockets of a suite lie in such a folder: its mode says who may call.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

#: Bytes that the path of a UNIX socket may have.
MAX_SOCKET_BYTES: Final = 107


class UnsafeFolderError(Exception):
    """A folder is not, or cannot be made, the user's alone; the text says what to do."""


class NotPrivateError(Exception):
    """Others could read or change a file of secrets; the text says how, and what to do."""


def check_private(path: Path, found: os.stat_result) -> None:
    """Make sure that a file of secrets is this user's alone, or root's.

    Args:
        path: Where it is, for the text.
        found: What it is.

    Raises:
        NotPrivateError: It is not.
    """
    mine = found.st_uid == os.geteuid()
    if not mine and found.st_uid != 0:
        raise NotPrivateError(
            f"{path} belongs to another user (uid {found.st_uid}), who could put in what he likes: "
            "use a file of your own"
        )
    # Of a file that is root's the group may be how this process's user gets to read it.
    if stat.S_IMODE(found.st_mode) & (0o077 if mine else 0o037):
        raise NotPrivateError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, which lets other users at the tokens: "
            f"chmod 600 {path}"
        )


def check_own(path: Path, found: os.stat_result) -> None:
    """Make sure that nobody but this user, or root, may change a file; others may read it.

    Args:
        path: Where it is, for the text.
        found: What it is.

    Raises:
        NotPrivateError: Somebody may.
    """
    if found.st_uid not in (0, os.geteuid()):
        raise NotPrivateError(
            f"{path} belongs to another user (uid {found.st_uid}), who could put in what he likes: "
            "use a file of your own"
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise NotPrivateError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, which lets other users change it: "
            f"chmod go-w {path}"
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that no other user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)  # it takes the place of another one, which a power cut must not make empty


def runtime_folder(of: Path, longest_name: str) -> Path:
    """A short folder of this user for the sockets that belong to a data folder; not made yet.

    ``$XDG_RUNTIME_DIR/modelkeep/<hash>``, or the like below the temporary folder if there is none. The
    same from start to start.

    Args:
        of: The folder that the sockets belong to; its real path is hashed.
        longest_name: The longest name that a socket in it will have.

    Raises:
        UnsafeFolderError: No place is short enough.
    """
    digest = hashlib.sha256(os.fsencode(os.path.realpath(of))).hexdigest()[:12]
    candidates = [Path(base) / f"modelkeep-{os.geteuid()}" for base in (tempfile.gettempdir(), "/tmp")]
    if (runtime := _runtime_dir()) is not None:
        candidates.insert(0, runtime / "modelkeep")
    for candidate in candidates:
        if len(os.fsencode(candidate / digest / longest_name)) <= MAX_SOCKET_BYTES:
            return candidate / digest
    raise UnsafeFolderError(
        f"{candidates[-1] / digest / longest_name} is longer than the {MAX_SOCKET_BYTES} bytes that the path "
        "of a UNIX socket may have: set XDG_RUNTIME_DIR to a shorter folder of yours"
    )


def make_above(folder: Path, mode: int = 0o777) -> None:
    """Make the folders that a folder lies in, however many: ``mkdir(parents=True)`` takes a level of Python's
    stack for each and ends at about a thousand.

    Raises:
        OSError: One cannot be made.
    """
    missing = []
    for above in folder.parents:
        if above.is_dir():
            break
        missing.append(above)
    for above in reversed(missing):
        above.mkdir(mode=mode, exist_ok=True)


def who_may_replace(folder: Path) -> str:
    """Why another user may put a folder of his own in the place of this one; empty if none can.

    A folder can be renamed by whoever may write to the one that it lies in, and so on upwards. The group may:
    many systems give each user a group of his own.

    Args:
        folder: What it lies in must be there.

    Raises:
        OSError: It cannot be looked at.
    """
    # In a container root may go by another number; and whoever owns this file, as one may a checkout that is
    # mounted there, has this process do what he likes.
    trusted = {0, os.geteuid(), os.stat("/").st_uid, os.stat(__file__).st_uid}
    for above in dict.fromkeys((*folder.absolute().parents, *Path(os.path.realpath(folder)).parents)):
        found = above.stat()
        if found.st_uid not in trusted:
            return f"{above} is of another user (uid {found.st_uid})"
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
            return f"every user may write to {above} ({mode}; `chmod +t` leaves to each what is his)"
    return ""


def make_private(folder: Path) -> None:
    """Make a folder, with those above it, and make sure that it is this user's alone.

    Raises:
        UnsafeFolderError: Somebody else made it, may replace it, or it cannot be made.
    """
    try:
        for tries_left in (2, 1, 0):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                break
            except FileNotFoundError:  # another suite, which ends, took the folder above away just now
                if not tries_left:
                    raise
        # In a folder such as /tmp somebody else may have been there first.
        found, above = folder.lstat(), folder.parent.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise _foreign(folder)
        if above.st_uid not in (0, os.geteuid()):
            raise _foreign(folder.parent)
        if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
            raise UnsafeFolderError(
                f"other users may replace {folder}, since they can write to {folder.parent}: chmod go-w it"
            )
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise UnsafeFolderError(
            f"cannot make {folder}: {error.strerror}; set XDG_RUNTIME_DIR to a folder of yours with mode 0700"
        ) from None


def _foreign(folder: Path) -> UnsafeFolderError:
    return UnsafeFolderError(
        f"{folder} is not a folder of yours (uid {os.geteuid()}), so it is not trusted: have it "
        "removed, or set XDG_RUNTIME_DIR to a folder of yours with mode 0700"
    )


def _runtime_dir() -> Path | None:
    text = os.environ.get("XDG_RUNTIME_DIR", "")
    if not text.startswith("/"):
        return None
    try:
        found = os.stat(text)
    except OSError:
        return None
    # `sudo` may leave another user's in the environment.
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return Path(text) if mine else None
