"""The files of a suite: ``run/suite.lock`` keeps a second one out, ``run/suite.json`` tells where it is."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

from modelkeep.defaults import EXIT_NOT_WRITABLE
from modelkeep.locks import LockedError, take_lock
from modelkeep.private import make_above, who_may_replace, write_private
from modelkeep.reserve import Reserve, is_full
from modelkeep.suitefile import SuiteFile, read_suite_file, suite_file_path
from modelkeep.supervisor._errors import SuiteError

#: Kept in ``run`` for the files there.
RESERVE_BYTES = 256 << 10
#: Bytes that the path of a data folder may have: SQLite opens files of up to 504, and one in it is called
#: download/download.db.
MAX_PATH_BYTES = 480


def write_suite_file(data_dir: Path, content: SuiteFile) -> None:
    """Replace the description atomically: a reader sees the old one or the new one, never a part.

    On a full disk the room for it comes from a reserve in the same folder.
    """
    path = suite_file_path(data_dir)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    text = json.dumps(asdict(content), indent=2) + "\n"
    reserve = Reserve(path.parent, RESERVE_BYTES)
    try:
        reserve.run(lambda: write_private(scratch, text))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    reserve.renew()


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder and what the supervisor needs inside.

    Raises:
        SuiteError: exit code 73 when it cannot be made or written, or other users may replace it.
    """
    if (
        size := max(len(os.fsencode(data_dir)), len(os.fsencode(os.path.realpath(data_dir))))
    ) > MAX_PATH_BYTES:
        raise SuiteError(
            f"The path of the data folder has {size:,} bytes, and databases in it are opened up to "
            f"{MAX_PATH_BYTES}. Name a shorter one: modelkeep up --data-dir FOLDER",
            exit_code=EXIT_NOT_WRITABLE,
        )
    try:
        make_above(data_dir)
        _keep_in_place(data_dir)
        for folder in (data_dir, data_dir / "run", data_dir / "logs"):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        _close_to_others(data_dir)
    except OSError as error:
        raise not_writable(data_dir, error) from error


def _keep_in_place(data_dir: Path) -> None:
    """What the services write and read goes by the folder's path: nobody else may put another one there.

    Raises:
        SuiteError: exit code 73 when somebody may.
    """
    if why := who_may_replace(data_dir):
        raise SuiteError(
            f"The data folder {data_dir} can be replaced by others: {why}, who could have the suite read and "
            "write what they like. Name a folder that lies in yours: modelkeep up --data-dir FOLDER",
            exit_code=EXIT_NOT_WRITABLE,
        )


def _close_to_others(data_dir: Path) -> None:
    """What a suite keeps is its user's alone: the folder shuts out all others.

    Raises:
        SuiteError: exit code 73 for a folder that others are meant to use, as /tmp, or that one of them owns.
    """
    for folder in (data_dir, data_dir / "run", data_dir / "logs"):
        if (owner := folder.stat().st_uid) != os.geteuid():
            raise SuiteError(
                f"{folder} is of another user (uid {owner}), who could put his files in the place of the "
                "suite's. Run the suite as that user, change the owner with `chown -R`, or name another "
                "folder: modelkeep up --data-dir FOLDER",
                exit_code=EXIT_NOT_WRITABLE,
            )
    mode = stat.S_IMODE(data_dir.stat().st_mode)
    if not mode & 0o077:
        return
    if mode & 0o1002:
        remedy = "Name a folder inside it: modelkeep up --data-dir FOLDER"
        if not mode & stat.S_ISVTX:
            remedy = (
                f"If all in it is yours: `chmod 700 {data_dir}`; else name another folder with --data-dir"
            )
        raise SuiteError(
            f"Other users may write to the data folder {data_dir} (mode {mode:04o}), and could take the "
            f"suite's files for theirs. {remedy}",
            exit_code=EXIT_NOT_WRITABLE,
        )
    data_dir.chmod(0o700)


def not_writable(data_dir: Path, error: OSError) -> SuiteError:
    """What to say when something in the data folder cannot be written."""
    if is_full(error):
        return SuiteError(
            f"The data folder {data_dir} is on a full disk: free some space.", exit_code=EXIT_NOT_WRITABLE
        )
    return SuiteError(
        f"The data folder {data_dir} cannot be written ({error.strerror}: {error.filename}). "
        "Change its owner or mode, or name another one: modelkeep up --data-dir FOLDER",
        exit_code=EXIT_NOT_WRITABLE,
    )


def lock_data_dir(data_dir: Path) -> int:
    """Take the data folder for this suite; returns the descriptor that holds it.

    The services inherit the descriptor, so the folder stays taken until the last of them has ended,
    even when the supervisor itself was killed.

    Raises:
        SuiteError: when another suite has it, or its file cannot be written (exit code 73).
    """
    try:
        return take_lock(data_dir / "run" / "suite.lock")
    except LockedError:
        raise SuiteError(f"Another suite is running on {data_dir}{_who(data_dir)}") from None
    except OSError as error:
        raise not_writable(data_dir, error) from error


def _who(data_dir: Path) -> str:
    other = read_suite_file(data_dir)
    if other is None:
        return ". Stop it first, or name another folder: modelkeep up --data-dir FOLDER"
    record = other.addresses.get("record", "an unknown address")
    return (
        f" (pid {other.pid}, record at {record}). Use that one, stop it with `kill {other.pid}`, "
        "or name another folder: modelkeep up --data-dir FOLDER"
    )
