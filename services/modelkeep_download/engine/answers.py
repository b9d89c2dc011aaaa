"""What a source's answers say of the object, and whether one goes on with what is there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from modelkeep.exceptions import NotAModelFileException
from modelkeep_common.urls import without_query
from modelkeep_download.domain.names import name_from_disposition
from modelkeep_download.domain.retry import StartOver, TransientError
from modelkeep_download.engine.channel import describe
from modelkeep_download.engine.http1 import BadAnswerError, Body, Headers, content_range, http_date
from modelkeep_download.engine.limits import JobBandwidth
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import Head, Partial
from modelkeep_download.engine.transport import Limits, Response


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the source.

    Attributes:
        start: Offset in the object of the body's first byte.
        compares: Whether its first bytes are to be held against those that are there.
        is_beginning: Whether it has no more than the first bytes of the object.
    """

    response: Response
    body: Body
    head: Head
    start: int = 0
    compares: bool = False
    is_beginning: bool = False

    @classmethod
    def of(cls, response: Response) -> Answer:
        """The answer that a response is.

        Raises:
            TransientError, NotAModelFileException: As `Response.body`.
        """
        body = response.body()
        return cls(response, body, head_of(response, body))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    @property
    def serves_ranges(self) -> bool:
        """Whether the source may serve parts of the object, for all that this answer says."""
        return self.head.total is not None and "none" not in self.response.headers.tokens("Accept-Ranges")

    def is_of_another(self, partial: Partial) -> bool:
        """Whether it tells another size or validator than the partial file's.

        Where an ETag tells the object, a part without one may be of another: it has to be repeated
        (RFC 9110, 15.3.7). What else it leaves out is no other.
        """
        etag = (self.response.headers.get("ETag") or "").strip()
        modified = self.response.headers.get("Last-Modified")
        other = etag if partial.validator.startswith('"') else modified
        if self.status == 200:
            other = self.head.validator
        elif self.status == 206 and partial.validator.startswith('"') and not etag:
            return True
        return bool(other and other != partial.validator) or self.head.total not in (None, partial.total)

    def serves(self, first: int, end: int, total: int | None) -> bool:
        """Whether it has just these bytes of an object of that size."""
        served = content_range(self.response.headers) if self.status == 206 else None
        return served == (first, end - 1, total) and self.body.length in (None, end - first)


def head_of(response: Response, body: Body) -> Head:
    """What the headers say of the object."""
    headers = response.headers
    total = body.length if response.status == 200 else None
    if response.status == 206 and (served := content_range(headers)) is not None:
        total = served[2]
    return Head(
        total=total,
        validator=_validator(headers) if total is not None else "",
        filename=name_from_disposition(headers.get("Content-Disposition")),
        final_url=without_query(response.url),
        content_type=(headers.get("Content-Type") or "").partition(";")[0].strip().lower()[:255],
    )


def _validator(headers: Headers) -> str:
    """A strong ETag, or a Last-Modified at least a minute before Date (RFC 9110, 8.8.2.2); else ""."""
    etag = (headers.get("ETag") or "").strip()
    if re.fullmatch(r'"[\x21\x23-\x7e]{0,1000}"', etag):
        return etag
    modified = headers.get("Last-Modified")
    then, now = http_date(modified), http_date(headers.get("Date"))
    if etag or modified is None or then is None or now is None:
        return ""
    return modified if now - then >= 60 else ""


class Flow:
    """What a connection gives of an answer's body, as soon as it is there and as fast as it may come.

    Args:
        answer: The answer, its body not yet read.
        limits: When it counts as stalled.
        bandwidth: How fast bytes may come.
        stop: Ends the reading.
        most: Most bytes taken of an object whose size the source does not tell.

    Attributes:
        at: Offset in the object of the next byte.
        held: Seconds for which our own limits have held bytes back.
    """

    def __init__(
        self, answer: Answer, limits: Limits, bandwidth: JobBandwidth, stop: StopSignal, most: int = 2**63 - 1
    ) -> None:
        self.at, self.held, self._most = answer.start, 0.0, most
        self._content_type = answer.head.content_type
        self._body, self._host, self._total = answer.body, answer.response.host, answer.head.total
        self._limits, self._bandwidth, self._stop = limits, bandwidth, stop
        #: Seconds that were waited for the source, and what came in them.
        self._waited, self._came = 0.0, 0

    def read(self, buffer: memoryview) -> int:
        """Fill the buffer with what is there, or wait for some; 0 at the end of the object.

        Raises:
            TransientError: It broke off, or stalls.
            StartOver: More comes than was promised.
            NotAModelFileException: More comes than is taken without a promise.
            Stopped: stop() was called.
        """
        most = min(len(buffer), self._bandwidth.chunk())
        if self._total is not None:
            # One byte more than is to come: a body in chunks may not know its own end.
            most = min(most, self._total - self.at + self._body.chunked)
        asked = time.monotonic()
        try:
            count = self._body.readinto(buffer[:most])
        except (OSError, BadAnswerError, ValueError) as error:
            self._stop.check()
            raise TransientError(f"{self._host} broke off: {describe(error)}") from error
        self._stop.check()
        self._watch(time.monotonic() - asked, count)
        self.at += count
        if self._total is not None and self.at > self._total:
            raise StartOver(f"{self._host} sends more than it promised", changed=False)
        if self._total is None and self.at > self._most:
            raise _endless(self._host, self._content_type, self._most)
        if count:
            self.held += self._bandwidth.take(count, self._stop)
        return count

    def pieces(self, most: int) -> Iterator[memoryview]:
        """What comes, at most so many bytes at once, until the end of the object.

        Raises:
            TransientError, StartOver, NotAModelFileException, Stopped: As `read`.
        """
        buffer = memoryview(bytearray(most))
        while count := self.read(buffer):
            yield buffer[:count]
        if self._total is not None and self.at < self._total:
            raise self.broke_off()

    def finish(self) -> None:
        """All that was wanted has come: see that a body in chunks ends where the object does.

        Raises:
            StartOver, TransientError: It does not.
        """
        if self._body.chunked and self.at == self._total:
            self.read(memoryview(bytearray(1)))

    def broke_off(self) -> TransientError:
        """The error for an end that came too soon."""
        return TransientError(f"{self._host} broke off after {self.at} of {self._total} bytes")

    def _watch(self, waited: float, count: int) -> None:
        """See that the source does not trickle; time that our own limits take is not its own."""
        self._waited += waited
        self._came += count
        if self._waited >= self._limits.stall_timeout_s:
            if self._came < self._limits.min_bytes_per_second * self._waited:
                text = f"{self._host} stalls: {self._came} bytes in {self._waited:.0f} s"
                raise TransientError(text)
            self._waited, self._came = 0.0, 0


def _endless(host: str, content_type: str, most: int) -> NotAModelFileException:
    return NotAModelFileException(
        f"{host} does not say how many bytes it sends, and sends more than {most}: take a link that tells the"
        " size of the file, or raise max_unsized_bytes",
        metadata={"host": host, "content_type": content_type, "setting": "max_unsized_bytes"},
    )
