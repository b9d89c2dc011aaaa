"""HTTP/1.1 answers, read strictly (RFC 9110, 9112): what is not understood is an error, never passed over.

Everything has a bound: lines, headers, interim answers, digits. Blocking; knows files, no sockets.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol

MAX_LINE_BYTES = 65_536
MAX_HEAD_BYTES = 128 * 1024
MAX_HEADERS = 200
#: Interim answers (100, 103, …) before the answer itself.
MAX_INTERIM = 16
_MAX_CHUNK_LINE_BYTES = 4096
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)")
_RATE_FIELD = re.compile(r"[;\s]([rt])\s*=\s*([0-9]{1,12})(?![0-9])", re.ASCII)
_RATE_RESET = re.compile(r"(?<![\w-])reset\s*=\s*([0-9]{1,12})(?![0-9])", re.ASCII)
_MAX_SIZE = 2**63 - 1
_MAX_DATE = 64


class BadAnswerError(Exception):
    """An answer that is no HTTP/1.1, breaks off, or contradicts itself; the text is for people."""


class NoHttpError(BadAnswerError):
    """An answer whose first line is none of HTTP/1.1: another protocol is spoken there."""


class EncodedAnswerError(Exception):
    """An answer whose body is encoded in a way that was not asked for.

    Attributes:
        encoding: The codings as the answer names them, cut.
    """

    def __init__(self, encoding: str) -> None:
        super().__init__(encoding)
        self.encoding = encoding[:100]


class Headers:
    """Header fields; names in any case, values as Latin-1 text without control characters."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header, in the order in which they came."""
        return self._fields.get(name.lower(), [])

    def items(self) -> list[tuple[str, str]]:
        """Every name, in lower case, with each of its values."""
        return [(name, value) for name, values in self._fields.items() for value in values]

    def tokens(self, name: str) -> list[str]:
        """The elements of a comma-separated header, in lower case, empty ones left out."""
        found = (token.strip(" \t").lower() for value in self.all(name) for token in value.split(","))
        return [token for token in found if token]


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """An answer up to its body.

    Attributes:
        keeps_open: Whether another may follow on the same connection (RFC 9112, 9.3).
    """

    status: int
    headers: Headers
    keeps_open: bool = False


class Reader(Protocol):
    """What is read of a connection's buffered file."""

    def readline(self, limit: int = -1, /) -> bytes:
        """A line, or as much of it as the limit allows."""

    def readinto1(self, buffer: memoryview, /) -> int:
        """What one read gives."""


def read_head(file: Reader) -> AnswerHead:
    """The head of the answer itself, interim ones (RFC 9110, 15.2) passed over.

    Raises:
        BadAnswerError: It is no HTTP/1.1, breaks off or has no bounds.
        OSError: As the connection's.
    """
    for _ in range(MAX_INTERIM + 1):
        match = _STATUS_LINE.fullmatch(_line(file, "no answer at all"))
        if match is None:
            raise NoHttpError("the answer is no HTTP/1.1")
        status, headers = int(match[2]), _headers(file)
        if status == 101:
            raise BadAnswerError("it changes the protocol, which was not asked for")
        if status >= 200:
            if match[1] == b"0" and headers.all("Transfer-Encoding"):
                raise BadAnswerError("an answer of HTTP/1.0 has a transfer encoding")
            keeps_open = match[1] == b"1" and "close" not in headers.tokens("Connection")
            return AnswerHead(status, headers, keeps_open)
    raise BadAnswerError(f"more than {MAX_INTERIM} interim answers")


class Body:
    """The body of an answer, as the head frames it (RFC 9112, 6.3).

    Attributes:
        length: Bytes that Content-Length promises; None where it does not.
        chunked: Whether it comes in chunks.

    Raises:
        BadAnswerError: The head contradicts itself.
        EncodedAnswerError: The body has a coding besides "chunked" and "identity".
    """

    def __init__(self, head: AnswerHead, file: Reader) -> None:
        self._file = file
        lengths, codings = head.headers.all("Content-Length"), head.headers.tokens("Transfer-Encoding")
        self.chunked = bool(head.headers.all("Transfer-Encoding"))
        if self.chunked and codings != ["chunked"]:
            if "chunked" in codings[:-1] or not codings:
                raise BadAnswerError("its transfer encoding is malformed")
            raise EncodedAnswerError(", ".join(codings))
        if self.chunked and lengths:
            raise BadAnswerError("it has both a length and a transfer encoding")
        if any(coding != "identity" for coding in head.headers.tokens("Content-Encoding")):
            raise EncodedAnswerError(", ".join(head.headers.tokens("Content-Encoding")))
        self.length = _content_length(lengths)
        self._left = 0 if self.chunked else self.length
        self._ended = False

    @property
    def is_whole(self) -> bool:
        """Whether it was read to the end that its head or its chunks gave it."""
        return self._ended if self.chunked else self._left == 0

    def readinto(self, buffer: memoryview) -> int:
        """Read what the connection gives into the buffer; 0 at the end.

        A body with a length that breaks off ends early, too: compare.

        Raises:
            BadAnswerError: The chunks are malformed, or break off.
            OSError: As the connection's.
        """
        if self.chunked and not self._ended and self._left == 0:
            self._next_chunk()
        if self._ended or not buffer:
            return 0
        size = len(buffer) if self._left is None else min(len(buffer), self._left)
        count = self._file.readinto1(buffer[:size]) if size else 0
        if self._left is not None:
            self._left -= count
        if self.chunked and not count:
            raise BadAnswerError("its chunks break off")
        if self.chunked and self._left == 0 and _line(self._file, "its chunks break off"):
            raise BadAnswerError("a chunk is longer than it says")
        return count

    def _next_chunk(self) -> None:
        match = _CHUNK.fullmatch(_line(self._file, "its chunks break off", _MAX_CHUNK_LINE_BYTES))
        if match is None or (size := int(match[1], 16)) > _MAX_SIZE:
            raise BadAnswerError("a chunk's size is malformed")
        self._left = size
        if not size:
            _headers(self._file)  # trailers, which tell nothing that is needed
            self._ended = True


def basic(userinfo: str) -> str:
    """What shows a user and password (RFC 7617): a value of Authorization or Proxy-Authorization."""
    return f"Basic {base64.b64encode(userinfo.encode()).decode('ascii')}"


def content_range(headers: Headers) -> tuple[int, int, int | None] | None:
    """First and last byte, and the total (None for "*") of a Content-Range; None if it has no good one."""
    values = headers.all("Content-Range")
    match = _CONTENT_RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return None
    first, last, total = int(match[1]), int(match[2]), None if match[3] is None else int(match[3])
    if first > last or last >= _MAX_SIZE or (total is not None and not last < total <= _MAX_SIZE):
        return None
    return first, last, total


def http_date(text: str | None) -> float | None:
    """The Unix time that an HTTP date means; None if it is none, or out of every calendar."""
    if text is None or len(text) > _MAX_DATE or not text.isascii():
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, OSError):  # as many as it is written in Python
        return None


def _content_length(values: list[str]) -> int | None:
    found = {part.strip(" \t") for value in values for part in value.split(",")}
    if not found:
        return None
    if len(found) > 1:
        raise BadAnswerError("it has lengths that differ")
    (text,) = found
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > _MAX_SIZE:
        raise BadAnswerError("its length is malformed")
    return int(text)


def _headers(file: Reader) -> Headers:
    fields: dict[str, list[str]] = {}
    for count, line in enumerate(_field_lines(file)):
        name, colon, value = line.partition(b":")
        if count >= MAX_HEADERS:
            raise BadAnswerError(f"it has more than {MAX_HEADERS} headers")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadAnswerError("one of its headers is malformed")
        fields.setdefault(name.decode("ascii").lower(), []).append(value.strip(b" \t").decode("latin-1"))
    return Headers(fields)


def _field_lines(file: Reader) -> Iterator[bytes]:
    """The header lines; one that goes on in the next is one (RFC 9112, 5.2)."""
    size, pending = 0, b""
    while line := _line(file, "its headers break off"):
        size += len(line)
        if size > MAX_HEAD_BYTES:
            raise BadAnswerError(f"its headers have more than {MAX_HEAD_BYTES} bytes")
        if line[:1] in b" \t" and pending:
            pending += b" " + line.strip(b" \t")
            continue
        if pending:
            yield pending
        pending = line
    if pending:
        yield pending


def _line(file: Reader, broken: str, limit: int = MAX_LINE_BYTES) -> bytes:
    """The next line without its end; `broken` says what it means if there is none."""
    line = file.readline(limit + 2)
    if not line.endswith(b"\n"):
        raise BadAnswerError("one of its lines is too long" if len(line) > limit else broken)
    return line.removesuffix(b"\n").removesuffix(b"\r")


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds to wait by a Retry-After header: a number of seconds or an HTTP date; None if unusable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    moment = http_date(value)
    return None if moment is None else max(0.0, moment - (time.time() if now is None else now))


def asked_to_wait(headers: Headers, now: float | None = None) -> float | None:
    """Seconds that an answer asks to wait: by Retry-After, else by its rate limit; None if by neither.

    Rate limits as the IETF's drafts have them: `RateLimit: "name";r=0;t=6` (of several those count that have
    nothing left), before that `RateLimit: remaining=0, reset=6`, and `RateLimit-Reset: 6`.
    """
    asked = parse_retry_after(headers.get("Retry-After"), now)
    if asked is not None:
        return asked
    limits = ",".join(headers.all("RateLimit"))
    waits = [float(seconds) for seconds in _RATE_RESET.findall(limits)]
    for item in limits.split(",")[:20]:
        fields = dict(_RATE_FIELD.findall(item))
        if "t" in fields and int(fields.get("r", "0")) == 0:
            waits.append(float(fields["t"]))
    reset = (headers.get("RateLimit-Reset") or "").strip()
    if not waits and re.fullmatch("[0-9]{1,12}", reset, re.ASCII):
        waits.append(float(reset))
    return max(waits, default=None)
