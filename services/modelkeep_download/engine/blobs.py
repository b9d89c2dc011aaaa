"""Which transfers fetch the same object now: one of them fetches it, and the others copy what it has written.

Each transfer takes a seat here once its own source has answered it, which is the proof of its credential.
Whoever sits first at an object fetches; when it stands up, whole or not, the next one goes on. Nobody waits
for those behind. A transfer that copies occupies its job's slot all the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from modelkeep.contents import BEGINNING_BYTES
from modelkeep_common.urls import mark_of
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine.answers import Answer
from modelkeep_download.engine.limits import JobBandwidth
from modelkeep_download.engine.pieces import Pieces
from modelkeep_download.engine.transfer import Credentials, Partial

#: What equal objects have in common: a hash, or an address and its strong ETag; and the size.
Key: TypeAlias = tuple[str | bytes, str, int]


def key_of(answer: Answer, there: Partial) -> Key | None:
    """The key of the object that a source has answered with; None if it is fetched for itself.

    Jobs that expect a hash share with those that expect the same, and compare it themselves. The others share
    what one address serves under one strong ETag. The two kinds do not mix: what was put together in the
    belief in a hash is no proof of what an address serves.
    """
    total, validator = answer.head.total or 0, answer.head.validator
    if total <= BEGINNING_BYTES or there.in_one_piece:  # what is so small has come with the answer
        return None
    if there.expected_sha256:
        return "sha256", there.expected_sha256, total
    return (mark_of(answer.response.url), validator, total) if validator.startswith('"') else None


class Blobs:
    """The objects that are being fetched. Safe to share between threads; its lock is held for no I/O."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: By key, who sits there, in the order in which they came.
        self.seated: dict[Key, list[Seat]] = {}
        #: By the inode of its partial file, the last transfer that wrote to it.
        self._by_inode = weakref.WeakValueDictionary[tuple[int, int], Seat]()
        #: What those who ask a source may come to share.
        self._asking: Counter[str | bytes] = Counter()

    @contextlib.contextmanager
    def seat(self, source: Credentials, there: Partial, fd: int) -> Iterator[Seat]:
        """The seat of a transfer as long as it runs, not taken yet.

        Args:
            source: What it asks.
            there: What it is to fetch.
            fd: Its partial file, which it may write to from now on.
        """
        found = os.fstat(fd)
        inode = (found.st_dev, found.st_ino)
        hints: list[str | bytes] = []
        if not there.in_one_piece:
            hints = [hint for hint in (mark_of(source.url), there.expected_sha256) if hint]
        with self.lock:
            if (earlier := self._by_inode.get(inode)) is not None:
                earlier.void = True  # whoever copies from it still: from now on other bytes may come there
            others = any(self._asking[hint] for hint in hints)
            self._by_inode[inode] = seat = Seat(self, fd, there.bandwidth, asks_beginning=others)
            self._asking.update(hints)
        try:
            yield seat
        finally:
            seat.stand()
            with self.lock:
                self._asking.subtract(hints)
                self._asking += Counter()  # drops those that nobody asks for any more


class Seat:
    """One transfer among those of the same object.

    Attributes:
        pieces: What of the object it has written.
        bandwidth: What the bytes that it fetches pass through.
        asks_beginning: Whether the first bytes are enough of an answer, since another may fetch the object.
        void: Its file may hold other bytes than the object's.
        left: It has stood up: what it has written stays as it is, as long as it is not void.
        sha256: Of the whole; "" unless it stood up with all bytes.
    """

    def __init__(self, blobs: Blobs, fd: int, bandwidth: JobBandwidth, *, asks_beginning: bool) -> None:
        self.pieces = Pieces(None, ByteRanges())
        self.bandwidth, self.asks_beginning = bandwidth, asks_beginning
        self.void = self.left = False
        self.sha256 = ""
        self._blobs, self._fd = blobs, fd
        self._key: Key | None = None
        self._mark = b""

    @classmethod
    def of_file(cls, fd: int, size: int) -> Seat:
        """The seat of a file that is whole, and that nobody here writes to; until it stands up."""
        seat = cls(Blobs(), fd, JobBandwidth(), asks_beginning=False)
        seat.pieces = Pieces(size, ByteRanges.first(size))
        return seat

    def heard(self, key: Key | None) -> None:
        """The source has answered with this object, None for another than before: then the seat is lost."""
        if self._key is not None and key != self._key:
            self.stand(void=True)

    def take(self, key: Key | None, answer: Answer, pieces: Pieces) -> Seat | None:
        """Sit down at an object, or go on sitting there; whoever fetches it, None if that is for this one.

        Args:
            key: The object.
            answer: What the source has answered.
            pieces: What there is of it, all of it of this object.
        """
        self.pieces, self._mark = pieces, mark_of(answer.response.url)
        with self._blobs.lock:
            if key is not None and self._key is None and not self.left:
                self._key = key
                self._blobs.seated.setdefault(key, []).append(self)
        return self.first()

    def first(self) -> Seat | None:
        """Whoever sits before all others at its object; None if it is this one, or sits nowhere."""
        with self._blobs.lock:
            first = self._blobs.seated[self._key][0] if self._key is not None else self
            return None if first is self else first

    def knows_address(self) -> bool:
        """Whether another one at the object was served by the same address."""
        with self._blobs.lock:
            others = self._blobs.seated[self._key] if self._key is not None else []
            return any(other is not self and other._mark == self._mark for other in others)

    def stand(self, *, sha256: str = "", void: bool = False) -> None:
        """Stand up for good: with all bytes, their hash known, or with what there is.

        Args:
            sha256: The hash.
            void: The file is about to get other bytes.
        """
        with self._blobs.lock:
            self.sha256 = self.sha256 or sha256
            self.void = self.void or void
            self.left = True
            if self._key is not None:
                seated = self._blobs.seated[self._key]
                seated.remove(self)
                if not seated:
                    del self._blobs.seated[self._key]
                self._key = None

    def opened(self) -> int | None:
        """A descriptor of its file for somebody else, who closes it; None if it has stood up."""
        with self._blobs.lock:
            return None if self.left else os.dup(self._fd)
