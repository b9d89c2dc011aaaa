"""A connected socket, read through a buffer; every wait has an end.

The socket never blocks: waiting is `poll`, which a shutdown of the socket from another thread ends at once.
Large reads go straight into the caller's buffer.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time

from modelkeep_download.engine.http1 import BadAnswerError

_BUFFER_BYTES = 16 * 1024


class Channel:
    """Reads and writes bytes. Belongs to one thread at a time.

    Attributes:
        patience_s: Seconds that one wait may take.
        received: Whether a byte came since `expect`.
        reused: Whether it has carried an answer before.
    """

    #: Whether one read gives less than what is there.
    _by_records = False

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.patience_s = 0.0
        self.received = False
        self.reused = False
        self._deadline: float | None = None
        self._bytes = bytearray(_BUFFER_BYTES)
        self._buffer = memoryview(self._bytes)
        self._at = self._end = 0
        self._broken: OSError | None = None
        self._poll = select.poll()

    def expect(self, seconds: float) -> None:
        """All that is sent and received from now on must be done in so many seconds."""
        self.patience_s, self._deadline, self.received = seconds, time.monotonic() + seconds, False

    def pour(self, patience_s: float) -> None:
        """From now on only the single wait is limited."""
        self.patience_s, self._deadline = patience_s, None

    @property
    def is_clean(self) -> bool:
        """Whether nothing has come that nobody read, the end of the connection included."""
        if self._at < self._end or self._broken:
            return False
        self._poll.register(self.sock, select.POLLIN)
        return not self._poll.poll(0)

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: As the socket's; TimeoutError if it takes too long.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def readline(self, limit: int = -1, /) -> bytes:
        """A line with its end, or as much of it as there is before the end or the limit."""
        line = bytearray()
        while True:
            end = self._bytes.find(b"\n", self._at, self._end) + 1 or self._end
            if limit >= 0:
                end = min(end, self._at + limit - len(line))
            line += self._buffer[self._at : end]
            self._at = end
            if line.endswith(b"\n") or len(line) == limit:
                return bytes(line)
            self._at, self._end = 0, self._receive(self._buffer)
            if not self._end:
                return bytes(line)

    def readinto1(self, buffer: memoryview, /) -> int:
        """Wait until something is there, and take of it what there is room for; 0 at the end."""
        if self._at == self._end:
            return self._receive(buffer)
        size = min(len(buffer), self._end - self._at)
        buffer[:size] = self._buffer[self._at : self._at + size]
        self._at += size
        return size

    def close(self) -> None:
        """Close the connection; TLS's farewell is left out, since nobody would wait for it."""
        self.sock.close()

    def _receive(self, buffer: memoryview) -> int:
        """Fill the buffer with what is there, waiting only for the first byte; 0 at the end."""
        if self._broken is not None:
            raise self._broken
        count = self._receive_some(buffer, wait=True) or 0
        self.received = self.received or count > 0
        try:
            while self._by_records and 0 < count < len(buffer):
                more = self._receive_some(buffer[count:], wait=False)
                if not more:
                    break
                count += more
        except OSError as error:
            self._broken = error  # what came before it counts
        return count

    def _receive_some(self, buffer: memoryview, *, wait: bool) -> int | None:
        """What one read of the socket gives, 0 at the end; None if that would have to be waited for."""
        while True:
            try:
                return self.sock.recv_into(buffer)
            except BlockingIOError:
                if not wait:
                    return None
                self._wait(select.POLLIN)

    def _wait(self, events: int) -> None:
        seconds = self.patience_s
        if self._deadline is not None:
            seconds = min(seconds, self._deadline - time.monotonic())
        self._poll.register(self.sock, events)
        if seconds <= 0 or not self._poll.poll(seconds * 1000):
            raise TimeoutError("timed out")


def describe(error: BaseException | None) -> str:
    """A few words about an I/O error, without addresses of memory and without what was sent."""
    if isinstance(error, BadAnswerError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
