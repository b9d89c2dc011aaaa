"""One YAML file of records, for whoever reads and writes it; needs no event loop.

A change is written as a whole new file, which takes the old one's place in one step when all of it is on the
disk: nobody ever sees half of it, and a process that ends at any moment leaves one or the other. A lock file
beside it keeps writers apart; each reads the file again first if it is not as it was left.

A person may change the file at any time. An editor may write it bit by bit, so what no program of this suite
has written is taken when it has not changed for a moment. One that cannot be read changes nothing: the
records stay what they were, and cannot be changed until it is mended.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from modelkeep.exceptions import DiskFullException, ServerBusyException, StoreFileBrokenException
from modelkeep.locks import LockedError, wait_for_lock
from modelkeep.reserve import Reserve, is_full
from modelkeep_common.wire import to_time_text, to_timestamp

from .covers import Covers, digest_of, folder_beside
from .document import split
from .loading import claimed_size, load
from .metadata import Metadata
from .problems import BrokenFileError, Problem, WrongFileError, WrongKindProblem
from .state import Change, State, apply
from .transaction import Transaction

#: A file may have this many bytes.
MAX_BYTES: Final = 256 << 20
#: Seconds for which a file must stay as it is to count as written to its end.
QUIET_S: Final = 0.3
#: How often a change is made anew since a person changed the file at the very moment.
MOST_TRIES: Final = 5
#: Seconds that a change waits for that, and for other processes.
_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.05

_HEAD: Final = (
    "# Records of models, written by modelkeep and for you to edit.\n"
    "# An entry needs name, path, model_type, model_format and base_model.\n\n"
)

#: Called with the new state and what changed.
Listener = Callable[[State, list[Change]], None]


class _Print(NamedTuple):
    """What tells one version of a file from another."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Print:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class ChangedMeanwhileError(Exception):
    """Somebody changed the file while a transaction was under way: nothing was written, try again."""


class YamlFile:
    """A file of records.

    Args:
        path: Where it is; a link is followed.
        reserve: Room for the way out of a full disk.
        listener: Called after each change of the file, whoever made it, on the thread that noticed; the
            records may be the same.
    """

    def __init__(
        self, path: Path, *, reserve: Reserve | None = None, listener: Listener | None = None
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self._reserve = reserve or Reserve(self.path.parent, 0)
        self.listener = listener
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        self._mutex = threading.RLock()
        #: The pictures of the records.
        self.covers = Covers(folder_beside(self.path))
        #: The records as they were last read or written.
        self.state = State()
        #: Why the file cannot be read as it is now.
        self.broken: BrokenFileError | None = None
        self._known: _Print | None = None
        #: A version that is perhaps still being written, and since when it looks so.
        self._waiting: tuple[_Print, float] | None = None

    def open(self) -> None:
        """Read the file; make it if there is none, or an empty one.

        Raises:
            WrongFileError: It is none of records, or one of a newer version.
            BrokenFileError: It cannot be read as it is.
            OSError: It cannot be made, read or locked.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._mutex, self._locked():
            self._clean()
            data = self._read()
            if data is None or not data[0].strip():
                made = Metadata(create_time=to_time_text(to_timestamp(time.time())))
                self._reserve.run(lambda: self._replace(State(head=_HEAD, metadata=made)))
                return
            self._take(*data, first=True)
            if self.broken is not None:
                raise self.broken

    def look(self) -> None:
        """Take in what others have changed, if anything; what is still being written, at a later look."""
        with self._mutex:
            self._look()

    def read(self) -> State:
        """The records as the file has them now.

        Raises:
            StoreFileBrokenException: It cannot be read.
            ServerBusyException: It is being written all the time.
        """
        with self._mutex:
            self._settle()
            self._check()
            return self.state

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """The records for changing; what was changed is in the file when this is left.

        Raises:
            StoreFileBrokenException: The file cannot be read as it is now.
            ServerBusyException: Another process holds it for long.
            ChangedMeanwhileError: Somebody changed the file at the same time; nothing was written.
            OSError: It cannot be written, as on a full disk; nothing was.
        """
        with self._mutex, self._locked():
            self._settle()
            self._check()
            transaction = Transaction(self.state, self.covers)
            yield transaction
            if transaction.changes:
                self._commit(transaction)
                self._tell(transaction.changes)

    # Reading.

    def _check(self) -> None:
        if (broken := self.broken) is not None:
            raise StoreFileBrokenException(
                f"The file of records cannot be read: {broken}.",
                metadata={"path": str(broken.path), "line": str(broken.line), "column": str(broken.column)},
            )

    def _settle(self) -> None:
        """Look until what there is has been taken."""
        until = time.monotonic() + _PATIENCE_S
        while not self._look():
            if time.monotonic() > until:
                raise _busy(f"{self.path} is being written all the time")
            time.sleep(_LOOK_S)

    def _look(self) -> bool:
        """Take in the file as it is; False if it seems to be under way from one state to the next."""
        found = self._print()
        if found == self._known:
            self._waiting = None
            return True
        now = time.monotonic()
        if self._waiting is None or self._waiting[0] != found:
            self._waiting = (found, now)
        is_quiet = now - self._waiting[1] >= QUIET_S
        try:
            data = self._read()
        except BrokenFileError as broken:
            self._fail(found, broken)
            return True
        except OSError as error:
            if is_quiet:
                self._fail(found, BrokenFileError(self.path, 0, 0, f"cannot be read: {error.strerror}"))
            return is_quiet
        if data is None:
            if is_quiet:
                self._fail(found, BrokenFileError(self.path, 0, 0, "is not there"))
            return is_quiet
        # An editor may have begun to write just now.
        if not (is_quiet and found == _Print.of(data[1]) == self._print()) and not _is_whole(data[0]):
            return False
        self._take(*data, first=False)
        return True

    def _read(self) -> tuple[bytes, os.stat_result] | None:
        """The file's contents; None if there is none.

        Raises:
            BrokenFileError: It is no file, or too large.
            OSError: It cannot be read.
        """
        try:
            mode = os.stat(self.path).st_mode
            if not stat.S_ISREG(mode):  # before it is opened: a pipe would wait
                what = "is a folder" if stat.S_ISDIR(mode) else "is no file"
                raise WrongFileError(self.path, 0, 0, what)
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(data) > MAX_BYTES:
            raise BrokenFileError(self.path, 0, 0, f"has more than {MAX_BYTES >> 20} MiB")
        return data, found

    def _print(self) -> _Print:
        try:
            return _Print.of(os.stat(self.path))
        except OSError:
            return _Print(0, 0, 0, 0)

    def _take(self, data: bytes, found: os.stat_result, *, first: bool) -> None:
        """Make what was read the state, or note what is wrong with it."""
        known = _Print.of(found)
        try:
            text = data.decode("utf-8")
            state, changes = load(text, None if first else self.state, found.st_mtime_ns / 1e9)
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            self._fail(known, BrokenFileError(self.path, line, column, "is not UTF-8"))
        except WrongKindProblem as problem:
            self._fail(known, WrongFileError.of(self.path, problem))
        except Problem as problem:
            self._fail(known, BrokenFileError.of(self.path, problem))
        else:
            self._waiting, self._known, self.broken = None, known, None
            self.state = state
            self._tell(changes)

    def _fail(self, known: _Print, broken: BrokenFileError) -> None:
        self._waiting, self._known, self.broken = None, known, broken

    def _tell(self, changes: list[Change]) -> None:
        if self.listener is not None:
            self.listener(self.state, changes)

    # Writing.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = wait_for_lock(self._lock_path, _PATIENCE_S)
        except LockedError as error:
            raise _busy(f"Another process ({error.holder or 'unknown'}) holds {self.path}") from None
        try:
            yield
        finally:
            os.close(descriptor)

    def _commit(self, transaction: Transaction) -> None:
        """Write what a transaction has made; a picture before the record that tells of it."""
        before = self.state
        new = self.covers.keep(filter(None, transaction.covers.values()))
        try:
            self._replace(apply(before, transaction.changed, transaction.changes[-1].revision))
        except BaseException:
            self.covers.drop(new)
            raise
        changed = {
            digest_of(before.entries[key].model) for key in transaction.changed if key in before.entries
        }
        if gone := changed - {""}:
            self.covers.drop(gone - {digest_of(entry.model) for entry in self.state.entries.values()})

    def _replace(self, state: State) -> None:
        """Write a state, and make it the one in force."""
        data, state = state.written()
        if len(data) > MAX_BYTES:  # it could not be read again
            raise DiskFullException(
                f"{self.path} would have more than {MAX_BYTES >> 20} MiB.",
                metadata={"path": str(self.path), "bytes_short": str(len(data) - MAX_BYTES)},
                remedy="Keep so many records in SQLite.",
            )
        try:
            before = os.stat(self.path)
        except FileNotFoundError:
            before = None
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=self._temporary, suffix=".tmp")
        try:
            with open(descriptor, "wb") as file:
                _take_after(file.fileno(), before)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                known = _Print.of(os.fstat(file.fileno()))
            if self._known is not None and self._print() != self._known:
                raise ChangedMeanwhileError
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        self._sync_folder()
        self.state, self._known = state, known

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @property
    def _temporary(self) -> str:
        return f".{self.path.name}."

    def _clean(self) -> None:
        """Take away what a process left that ended while it wrote."""
        for left in self.path.parent.iterdir():
            if left.name.startswith(self._temporary) and left.name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    left.unlink()


def translated(error: BaseException, file: YamlFile) -> BaseException:
    """What went wrong in a transaction, as an exception of the suite where it has one."""
    if isinstance(error, ChangedMeanwhileError):
        return _busy(f"{file.path} is being changed all the time")
    if not is_full(error):
        return error
    folder = file.path.parent
    return DiskFullException(
        f"The file system of {folder} has no room for the records.",
        metadata={"path": str(folder), "bytes_short": str(len(file.state.entries) << 10)},
        retry_after=30,
    )


def _take_after(descriptor: int, before: os.stat_result | None) -> None:
    """Give a new file owner and mode of the one before, so that who edits it still can."""
    if before is None:
        os.fchmod(descriptor, 0o600)
        return
    now = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        with contextlib.suppress(PermissionError):  # of another user's group, or it is not root's to give
            os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _busy(why: str) -> ServerBusyException:
    return ServerBusyException(f"{why}: try again.", metadata={"class": "file", "limit": "1"}, retry_after=1)


def _is_whole(data: bytes) -> bool:
    """Whether a program of this suite has written all of this."""
    try:
        return claimed_size(split(data.decode("utf-8"))) == len(data)
    except (UnicodeDecodeError, Problem):
        return False
