"""Sessions of others that downloads are fetched through: of `requests`, of `httpx`, or what behaves like one.

Whoever gives a session answers for whom it connects to: neither the guard sees its peers, nor do the settings
of TLS and proxies reach it. Redirects stay ours, and so do the rules about what an answer may be.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelkeep_common.urls import origin_of
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.channel import describe
from modelkeep_download.engine.guard import AddressGuard, check_number
from modelkeep_download.engine.http1 import AnswerHead, Headers
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transport import Limits, RedirectingSession, Response

_PIECE_BYTES = 256 * 1024
#: Pieces read ahead of whoever takes them.
_AHEAD = 4
#: Seconds between two looks at the signal: a session cannot be interrupted while it waits.
_LOOK_S = 0.05


@dataclass(frozen=True)
class RequestsSession(RedirectingSession):
    """Asks through a session that somebody else made, and will close.

    The session has to bear several threads at once, each with a request of its own, as those of `requests`
    and `httpx` do.

    Args:
        session: Has `get` and `head(url, headers=, stream=, allow_redirects=, timeout=)` as in `requests`, or
            `build_request` and `send` as in `httpx`.
        guard: Looks at addresses that are written as numbers; names are the session's matter.
        limits: See `Limits`.
    """

    session: Any
    guard: AddressGuard = field(default_factory=AddressGuard)
    limits: Limits = field(default_factory=Limits)

    def close(self) -> None:
        """See `Session`: whoever made the session closes it."""

    def ask(self, method: str, url: str, headers: Mapping[str, str], stop: StopSignal) -> Response:
        """See `Session`."""
        host = origin_of(url).host
        check_number(self.guard, host)
        asked = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        stream = _Stream(lambda: self._answer(method, url, asked), self.limits.stall_timeout_s, stop)
        try:
            head = stream.head(self.limits.headers_timeout_s)
        except OSError as error:
            stream.close()
            raise TransientError(f"{host} does not answer as it should: {describe(error)}") from error
        except BaseException:
            stream.close()
            raise
        return Response(head, url, stream, lambda fit: stream.close())

    def _answer(self, method: str, url: str, headers: Mapping[str, str]) -> Any:
        timeout = (self.limits.connect_timeout_s, self.limits.stall_timeout_s)
        if hasattr(self.session, "build_request"):
            request = self.session.build_request(method, url, headers=headers)
            return self.session.send(request, stream=True, follow_redirects=False)
        ask = self.session.head if method == "HEAD" else self.session.get
        return ask(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)


class _Stream:
    """An answer's bytes, read on a thread of their own, since no wait of a session can be interrupted."""

    def __init__(self, ask: Callable[[], Any], patience_s: float, stop: StopSignal) -> None:
        self._patience_s, self._stop = patience_s, stop
        self._deadline: float | None = None
        self._inbox: queue.Queue[AnswerHead | bytes | Exception] = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        self._piece = memoryview(b"")
        self._ended = False
        threading.Thread(target=self._run, args=(ask,), name="modelkeep-session", daemon=True).start()

    def head(self, seconds: float) -> AnswerHead:
        """The answer up to its body, which must come in so many seconds."""
        self.expect(seconds)
        head = self._next()
        self._deadline = None
        assert isinstance(head, AnswerHead)
        return head

    def expect(self, seconds: float) -> None:
        """See `modelkeep_download.engine.transport.Stream`."""
        self._deadline = time.monotonic() + seconds

    def readline(self, limit: int = -1, /) -> bytes:
        """No body comes in chunks here: the session has put them together."""
        return b""

    def readinto1(self, buffer: memoryview, /) -> int:
        """What has come, as much as there is room for; 0 at the end."""
        if not self._piece and not self._ended:
            piece = self._next()
            assert isinstance(piece, bytes)
            self._piece, self._ended = memoryview(piece), not piece
        size = min(len(buffer), len(self._piece))
        buffer[:size], self._piece = self._piece[:size], self._piece[size:]
        return size

    def close(self) -> None:
        """Let the thread end; it closes the answer."""
        self._closed.set()

    def _next(self) -> AnswerHead | bytes:
        until = self._deadline or time.monotonic() + self._patience_s
        while True:
            self._stop.check()
            try:
                found = self._inbox.get(timeout=_LOOK_S)
            except queue.Empty:
                if time.monotonic() > until:
                    raise TimeoutError("timed out") from None
                continue
            if isinstance(found, Exception):
                raise found if isinstance(found, OSError) else ConnectionError(describe(found)) from found
            return found

    def _run(self, ask: Callable[[], Any]) -> None:
        try:
            answer = ask()
            try:
                self._put(_head_of(answer))
                for piece in _pieces_of(answer):
                    if not self._put(piece):
                        return
                self._put(b"")
            finally:
                answer.close()
        except Exception as error:  # whatever a stranger's session raises
            self._put(error)

    def _put(self, item: AnswerHead | bytes | Exception) -> bool:
        """Hand it over; whether anybody still waits for it."""
        while not self._closed.is_set():
            try:
                self._inbox.put(item, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False


def _head_of(answer: Any) -> AnswerHead:
    fields: dict[str, list[str]] = {}
    pairs = answer.headers.multi_items() if hasattr(answer.headers, "multi_items") else answer.headers.items()
    for name, text in pairs:
        fields.setdefault(str(name).lower(), []).append(str(text))
    if fields.pop("transfer-encoding", None):  # what comes is what was in the chunks
        fields.pop("content-length", None)
    return AnswerHead(int(answer.status_code), Headers(fields))


def _pieces_of(answer: Any) -> Iterator[bytes]:
    """The body as it was sent, nothing unpacked: what is packed is refused."""
    if hasattr(answer, "iter_raw"):
        yield from filter(None, answer.iter_raw())
        return
    # What is there, rather than waiting for all that was asked for.
    read = getattr(answer.raw, "read1", answer.raw.read)
    while piece := read(_PIECE_BYTES, decode_content=False):
        yield piece
