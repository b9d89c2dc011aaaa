"""What `support.httpserver` serves, and what it keeps of each request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from support.httpfaults import Fault


class Sliced(Protocol):
    """Bytes, or what gives a part of itself as bytes without being all in memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


@dataclass
class Resource:
    """One object at a path, and how it is served."""

    body: Sliced
    etag: str | None = '"v1"'
    last_modified: str | None = None
    content_type: str | None = "application/octet-stream"
    disposition: str | None = None
    #: Any but 200 comes with the whole body, whatever range was asked for.
    status: int = 200
    #: Sent besides those that follow from the other fields.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Honour Range and If-Range.
    ranges: bool = True
    #: Serve a range of what there is now, whatever If-Range says.
    heeds_if_range: bool = True
    #: Leave Last-Modified and Content-Type out of a 206, as RFC 9110 (15.3.7) allows.
    terse_ranges: bool = False
    #: Bytes a second of each connection; None is as fast as it goes.
    rate: int | None = None
    #: Send the body in chunks without a Content-Length.
    chunked: bool = False
    #: Neither length nor chunks: the end of the connection ends the body.
    lengthless: bool = False
    content_encoding: str | None = None
    #: Answer 302 to this address instead of a body.
    redirect: str | None = None
    redirect_code: int = 302
    #: The Authorization header that is asked for (401 without any, 403 with another).
    authorization: str | None = None
    #: The faults of the next requests, one each, then none.
    faults: list[Fault] = field(default_factory=list)
    #: Asked for the fault of each request that `faults` has none for.
    fault_of: Callable[[Request], Fault | None] = lambda request: None
    #: So many requests are answered at once; the others wait, without an answer, until one is over.
    at_once: int | None = None
    #: Answer as HTTP/1.0 does, one request a connection.
    http10: bool = False


@dataclass
class Request:
    """What one request asked for and got."""

    path: str
    method: str
    range: str | None
    if_range: str | None
    headers: dict[str, str]
    #: What a POST sent.
    body: str = ""
    status: int = 0
    bytes_sent: int = 0
    done: bool = False
    #: When it came and was done with, in seconds of the monotonic clock.
    began: float = 0.0
    ended: float = 0.0
    #: Which of the server's connections brought it, from 1.
    connection: int = 0
    #: How many requests for its path were under way when it came, with itself.
    active: int = 1

    @property
    def offset(self) -> int:
        """First byte that the request asked for."""
        match = re.match(r"bytes=(\d+)-", self.range or "")
        return int(match[1]) if match else 0

    def end(self, size: int) -> int:
        """Offset behind the last byte that the request asked for, of an object of that size."""
        match = re.fullmatch(r"bytes=\d+-(\d+)", self.range or "")
        return min(size, int(match[1]) + 1) if match else size
