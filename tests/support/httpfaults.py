"""What can go wrong with one request to `support.httpserver`: each a value, given to a resource.

What a fault does to a request that it cannot apply to (a flipped byte outside the range) is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; the plain class does nothing and lets one request pass."""


@dataclass(frozen=True)
class Status(Fault):
    """Answer with this status, and with Retry-After, other headers and a body if given."""

    code: int
    retry_after: str | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut(Fault):
    """Promise the whole body and close the connection (or reset it) after so many of its bytes."""

    after: int
    reset: bool = False


@dataclass(frozen=True)
class Node(Cut):
    """Be the node that names the object by this ETag, and break off after so many bytes of the body."""

    etag: str = '"node"'


@dataclass(frozen=True)
class Hang(Fault):
    """Serve so many bytes of the body, then nothing for so long; -1 hangs before the status line."""

    after: int
    seconds: float = 30.0


@dataclass(frozen=True)
class Flip(Fault):
    """Serve the byte at this offset of the object inverted."""

    offset: int


@dataclass(frozen=True)
class Instead(Fault):
    """Answer 200 with this in place of the object."""

    body: bytes
    content_type: str = "text/html"


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """Answer 200 with the whole body, whatever was asked for."""


@dataclass(frozen=True)
class LieAboutRange(Fault):
    """Answer 206 with this Content-Range (None leaves the header out)."""

    content_range: str | None


@dataclass(frozen=True)
class CutHeaders(Fault):
    """Close the connection after the status line and one header."""


@dataclass(frozen=True)
class Reset(Fault):
    """Reset the connection in place of an answer."""


@dataclass(frozen=True)
class Garbage(Fault):
    """Answer with bytes that are no HTTP."""


@dataclass(frozen=True)
class Slow(Fault):
    """Serve the body at so many bytes a second, whatever the resource's rate is."""

    rate: int


@dataclass(frozen=True)
class Other(Fault):
    """Serve what is asked for, but of another object: its validators and, if given, its bytes."""

    etag: str | None = None
    last_modified: str | None = None
    body: bytes | None = None


@dataclass(frozen=True)
class Part(Fault):
    """Answer 206 with only so many bytes of what was asked for, and say so."""

    size: int


@dataclass(frozen=True)
class Multipart(Fault):
    """Answer 206 with the range as the one part of a multipart/byteranges body."""


@dataclass(frozen=True)
class Goodbye(Fault):
    """Serve all that was asked for, then close the connection without having said so."""


@dataclass(frozen=True)
class Trailing(Fault):
    """Serve all that was asked for, then send bytes that nobody asked for, and keep the connection."""

    extra: bytes
