"""The seam between a job and what fetches its bytes.

A `Transfer` brings the missing bytes of one object into a partial file. It is given what is there and tells
what comes, both as ranges of bytes in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from modelkeep.contents import Content
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine.limits import JobBandwidth
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import secrets_of

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
    #: Whether one answer is to bring it all: what was put together from several had another hash.
    in_one_piece: bool = False
    #: What the hash of the whole shall be; "" if nothing is expected.
    expected_sha256: str = ""
    #: A file of this host that may have the bytes of that hash: absolute; "" for none.
    local_copy: str = ""
    #: What the bytes that it lacks pass through.
    bandwidth: JobBandwidth = field(default_factory=JobBandwidth)


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
    """These bytes are on the disk; without `synced` they are in the file, and outlive only the process."""

    have: ByteRanges
    synced: bool = True


@dataclass(frozen=True, slots=True)
class Shared:
    """More than one answer of the source has a part in the object."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The transfer begins again at the first byte; `changed`: since the object is another one now."""

    why: str
    changed: bool


News: TypeAlias = Answered | Began | Written | Durable | Shared | Restarted
#: Hears how a transfer goes: returns when all but `Written` is recorded, and may raise to end the transfer.
#: `Written` and `Durable` may come from two threads at once; what comes before them does not.
Tell: TypeAlias = Callable[[News], None]


class Transfer(Protocol):
    """A way to fetch an object. Blocks, on a thread of its own."""

    def run(self, source: Credentials, partial: Partial, tell: Tell, stop: StopSignal) -> str:
        """Fetch all bytes that the partial file lacks and return the SHA-256 of the whole, in hexadecimal.

        On return the file has all its bytes, though the last of them need not be durable. On an
        exception what was written is told as `Durable`, and is so unless stop() was called.

        Raises:
            TransientError: Try again from what is durable.
            StartOver: Try again from the first byte.
            ModelkeepError: It will not work.
            Stopped: stop() was called.
        """
