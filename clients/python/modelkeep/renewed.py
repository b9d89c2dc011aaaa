"""What is made of files that others replace while a process runs: certificates, keys, lists of callers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from modelkeep.private import NotPrivateError

T = TypeVar("T")

#: Seconds between two looks at the files.
LOOK_S: Final = 1.0
#: Files that are being replaced just now are read so often at most, to have all of one time.
_TRIES: Final = 3

#: What tells one state of a file from another, and who may read it; None: it is not there.
_State: TypeAlias = tuple[int, ...] | None
_Seen: TypeAlias = tuple[_State, ...]


class UnusableError(Exception):
    """Files are no good; the text says which, why, and what to do."""


class Renewed(Generic[T]):
    """A value made of files, and made anew once one of them has changed. May be called from any thread.

    While new files are no good the value before them stays: a wrong certificate must not end a service that
    has a right one.

    Args:
        files: What to look at. Where a file is a link, what it leads to counts.
        make: Makes the value; blocks to read the files.
        complain: Gets the text once for each state of the files that is no good.

    Raises:
        UnusableError: The files are no good to begin with.
    """

    def __init__(self, files: Sequence[Path], make: Callable[[], T], complain: Callable[[str], None]) -> None:
        self._files = tuple(files)
        self._make = make
        self._complain = complain
        self._lock = threading.Lock()
        self._seen, self._value = self._read()
        self._looked = time.monotonic()

    @property
    def value(self) -> T:
        """The value, of what was seen last."""
        return self._value

    @property
    def is_due(self) -> bool:
        """Whether the last look is long enough ago for another one."""
        return time.monotonic() - self._looked >= LOOK_S

    def look(self) -> None:
        """Make the value anew if a file has changed. Blocks.

        Does nothing within a second of the last look.
        """
        if not self.is_due or not self._lock.acquire(blocking=False):
            return
        try:
            self._look()
        finally:
            self._lock.release()

    def _look(self) -> None:
        self._looked = time.monotonic()
        seen = self._state()
        if seen == self._seen:
            return
        try:
            self._seen, self._value = self._read()
        except UnusableError as error:
            self._seen = seen
            self._complain(str(error))

    def _read(self) -> tuple[_Seen, T]:
        for _ in range(_TRIES):
            before = self._state()
            try:
                made = self._make()
            except UnusableError:
                if self._state() == before:
                    raise
                continue
            if self._state() == before:
                return before, made
        raise UnusableError(f"{', '.join(map(str, self._files))}: they change all the time")

    def _state(self) -> _Seen:
        return tuple(map(_state_of, self._files))


def _state_of(path: Path) -> _State:
    try:
        found = os.stat(path)
    except OSError:
        return None
    who = found.st_mode, found.st_uid, found.st_gid
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, *who


def reading(path: Path, what: str, check: Callable[[Path, os.stat_result], None] | None = None) -> bytes:
    """What is in a file.

    Args:
        path: The file.
        what: What it is, for the text: ``tls_cert_file``.
        check: Raises NotPrivateError if others could read or change it: check_private, or check_own.

    Raises:
        UnusableError: It cannot be read, or `check` refuses it.
    """
    try:
        with path.open("rb") as file:
            if check is not None:
                check(path, os.fstat(file.fileno()))
            return file.read()
    except NotPrivateError as error:
        raise UnusableError(f"{what} {error}") from None
    except OSError as error:
        raise UnusableError(f"cannot read {what} {path}: {error.strerror}") from None
