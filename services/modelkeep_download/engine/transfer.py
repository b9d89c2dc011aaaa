"""The seam between a job and what fetches its bytes.

A `Transfer` brings the missing bytes of one object into a partial file. It is given what is there and tells
what comes, both as ranges of bytes in any order: one that fetches pieces over several connections needs no
change to the queue, the store, or the delivery.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from modelkeep.contents import Content
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine.transport import StopSignal, secrets_of

BUFFER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """What the source says about the object before its first byte."""

    #: Size of the whole object in bytes; None if the source does not say.
    total: int | None
    #: For If-Range; "" if the object cannot be gone on with later.
    validator: str
    #: One safe component, or "".
    filename: str
    #: The address that served the object, without query and credentials.
    final_url: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Partial:
    """The partial file, and which of its bytes are durable and of the object that `validator` names."""

    path: Path
    have: ByteRanges
    total: int | None
    validator: str
    #: Whether the hash of the whole decides about it, so that its bytes may come from whichever copy.
    hash_decides: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """The URL with its secrets, and what goes with it. Lives in memory only; its repr shows nothing."""

    url: str
    userinfo: str = ""
    token: str | None = None

    @property
    def secrets(self) -> list[str]:
        """What no text that a source writes may show."""
        return secrets_of(self.url, self.token, self.userinfo)

    def __repr__(self) -> str:
        return "Credentials(…)"


@dataclass(frozen=True, slots=True)
class Answered:
    """The source answered; of what was there, the transfer goes on with `kept`."""

    head: Head
    kept: ByteRanges


@dataclass(frozen=True, slots=True)
class Began:
    """The object begins with this; nothing of it is written yet."""

    content: Content
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """So many bytes of the object are written, though not yet durable. Told often."""

    bytes_done: int


@dataclass(frozen=True, slots=True)
class Durable:
    """These bytes are on the disk."""

    have: ByteRanges


@dataclass(frozen=True, slots=True)
class Restarted:
    """The transfer begins again at the first byte; `changed`: since the object is another one now."""

    why: str
    changed: bool


News: TypeAlias = Answered | Began | Written | Durable | Restarted
#: Hears how a transfer goes, from one thread at a time: returns when all but `Written` is recorded, and may
#: raise to end the transfer.
Tell: TypeAlias = Callable[[News], None]


class Transfer(Protocol):
    """A way to fetch an object. Blocks, on a thread of its own."""

    def run(self, source: Credentials, partial: Partial, tell: Tell, stop: StopSignal) -> str:
        """Fetch all bytes that the partial file lacks and return the SHA-256 of the whole, in hexadecimal.

        On return the file has all its bytes, though the last of them need not be durable. On an
        exception what was written is durable and told as `Durable`.

        Raises:
            TransientError: Try again from what is durable.
            StartOver: Try again from the first byte.
            ModelkeepError: It will not work.
            Stopped: stop() was called.
        """


class Sink:
    """Writes and hashes what comes, and makes it durable now and then.

    Attributes:
        at: Offset of the next byte.
    """

    def __init__(
        self, fd: int, digest: hashlib._Hash, at: int, tell: Tell, every_bytes: int, every_s: float
    ) -> None:
        self.at = at
        self._fd, self._digest, self._tell = fd, digest, tell
        self._every_bytes, self._every_s = every_bytes, every_s
        self._durable, self._durable_time = at, time.monotonic()

    def write(self, piece: memoryview | bytes | bytearray) -> None:
        """Take the next bytes of the object."""
        view = memoryview(piece)
        self._digest.update(view)
        while view:
            written = os.pwrite(self._fd, view, self.at)
            self.at += written
            view = view[written:]
        self._tell(Written(self.at))
        due = self.at - self._durable >= self._every_bytes
        if due or time.monotonic() - self._durable_time >= self._every_s:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make what was written durable, and have that recorded."""
        if self.at > self._durable:
            os.fdatasync(self._fd)
            self._tell(Durable(ByteRanges.first(self.at)))
            self._durable = self.at
        self._durable_time = time.monotonic()


def digest_of(fd: int, size: int, stop: StopSignal) -> hashlib._Hash:
    """SHA-256 of the first `size` bytes, read back from the file."""
    digest, at, buffer = hashlib.sha256(), 0, memoryview(bytearray(BUFFER_BYTES))
    while at < size:
        stop.check()
        count = os.preadv(fd, [buffer[: min(BUFFER_BYTES, size - at)]], at)
        if count == 0:
            raise StartOver("the partial file is shorter than recorded", changed=False)
        digest.update(buffer[:count])
        at += count
    return digest
