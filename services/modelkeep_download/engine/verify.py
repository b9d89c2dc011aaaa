"""SHA-256 of a file while it comes: a thread reads what is there, out of the page cache."""

from __future__ import annotations

import hashlib
import os
import threading

from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine.pieces import Pieces
from modelkeep_download.engine.stops import Stopped, StopSignal

#: Stays in the second cache of a core between the read and the hash.
_BUFFER_BYTES = 256 << 10


def digest_of(fd: int, size: int, stop: StopSignal) -> hashlib._Hash:
    """SHA-256 of the first `size` bytes, read back from the file."""
    digest, at, buffer = hashlib.sha256(), 0, memoryview(bytearray(min(_BUFFER_BYTES, max(size, 1))))
    while at < size:
        stop.check()
        at += _hash_at(fd, digest, at, size, buffer)
    return digest


class Follower:
    """Hashes an object behind the connections that write it.

    Args:
        fd: The file.
        pieces: What is there.
        stop: Ends the hashing.

    Attributes:
        at: How many bytes are hashed.
    """

    def __init__(self, fd: int, pieces: Pieces, stop: StopSignal) -> None:
        self.at = 0
        self._fd, self._pieces, self._stop = fd, pieces, stop
        self._digest = hashlib.sha256()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="modelkeep-hash", daemon=True)
        self._thread.start()

    def digest(self) -> str:
        """The hash, in hexadecimal, once all is hashed that will come.

        Raises:
            Stopped, StartOver, OSError: It could not be.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def end(self) -> None:
        """Return when the thread has ended; the pieces are closed, or the signal is set."""
        self._thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        try:
            while (there := self._pieces.wait_beyond(self.at)) is not None:
                while self.at < there:
                    self._stop.check()
                    self.at += _hash_at(self._fd, self._digest, self.at, there, buffer)
        except (Stopped, StartOver, OSError) as error:
            self._error = error


def _hash_at(fd: int, digest: hashlib._Hash, at: int, end: int, buffer: memoryview) -> int:
    count = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
    if count == 0:
        raise StartOver("the partial file is shorter than recorded", changed=False)
    digest.update(buffer[:count])
    return count
