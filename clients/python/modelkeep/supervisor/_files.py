"""The files of a suite: ``run/suite.lock`` keeps a second one out, ``run/suite.json`` tells where it is."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from modelkeep.defaults import EXIT_NOT_WRITABLE
from modelkeep.locks import LockedError, take_lock
from modelkeep.reserve import Reserve, is_full
from modelkeep.supervisor._errors import SuiteError

#: Kept in ``run`` for the files there.
RESERVE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """What ``<data_dir>/run/suite.json`` says while a suite runs.

    Attributes:
        pid: The supervisor's process id.
        data_dir: The absolute data folder.
        addresses: Service name (``record``, …) to ``host:port``.
        sockets: Service name to the path of the UNIX socket where its owner calls.
        pids: Service name to process id.
        versions: Distribution name to version.
        start_time: Seconds since the epoch at which all services were healthy.
    """

    pid: int
    data_dir: str
    addresses: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, str] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    start_time: float = 0.0


def suite_file_path(data_dir: Path) -> Path:
    """Where the suite of a data folder describes itself."""
    return data_dir / "run" / "suite.json"


def read_suite_file(data_dir: Path) -> SuiteFile | None:
    """The running suite of a data folder, or None when there is no (readable) description.

    A suite that was killed leaves its file behind, so what it says is a hint and not a promise.
    """
    try:
        said = json.loads(suite_file_path(data_dir).read_text())
        return SuiteFile(**{name: said[name] for name in SuiteFile.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


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


def write_private(path: Path, text: str) -> None:
    """Write a file that no other user can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder and what the supervisor needs inside.

    Raises:
        SuiteError: exit code 73 when it cannot be made or written.
    """
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        for folder in (data_dir, data_dir / "run", data_dir / "logs"):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        _close_to_others(data_dir)
    except OSError as error:
        raise not_writable(data_dir, error) from error


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
        raise SuiteError(
            f"Other users may write to the data folder {data_dir} (mode {mode:04o}), and could take the "
            "suite's files for theirs. Name a folder inside it: modelkeep up --data-dir FOLDER",
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
