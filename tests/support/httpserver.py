"""A real HTTP server that misbehaves on request, over sockets: in a thread, or as a process of its own.

In a test::

    with HttpServer() as server:
        server.put("/model.safetensors", Resource(body, faults=[Cut(after=1000)]))
        ... fetch server.url("/model.safetensors") ...
        assert server.bytes_served("/model.safetensors") == len(body)

As a process (the last line of its output says where it listens)::

    python -m support.httpserver --pattern /model.bin=67108864 --file /a.safetensors=a.safetensors

It then answers `GET /_stats` with what it served, by path: requests (range, bytes) and bytes in all.
Send and receive buffers are small, so that "bytes served" is close to "bytes received".
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any

_BLOCK = 64 * 1024


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that look random and are the same for the same size and seed."""
    source, piece = random.Random(seed), 64 << 20
    return b"".join(source.randbytes(min(piece, size - at)) for at in range(0, size, piece))


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
class Garbage(Fault):
    """Answer with bytes that are no HTTP."""


@dataclass
class Resource:
    """One object at a path, and how it is served."""

    body: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = None
    content_type: str | None = "application/octet-stream"
    disposition: str | None = None
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


@dataclass
class Request:
    """What one request asked for and got."""

    path: str
    method: str
    range: str | None
    if_range: str | None
    headers: dict[str, str]
    status: int = 0
    bytes_sent: int = 0
    done: bool = False

    @property
    def offset(self) -> int:
        """First byte that the request asked for."""
        match = re.match(r"bytes=(\d+)-", self.range or "")
        return int(match[1]) if match else 0


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64
    owner: HttpServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that end in the middle are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 60

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BLOCK)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """No log: tests read `requests`."""

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        owner = self.server.owner
        path = self.path.split("?", 1)[0]
        if path == "/_stats":
            self._send_json(owner.stats())
            return
        request = Request(
            self.path,
            self.command,
            self.headers.get("Range"),
            self.headers.get("If-Range"),
            {name.lower(): value for name, value in self.headers.items()},
        )
        resource, fault = owner._begin(path, request)
        try:
            if resource is None:
                self._send_status(request, 404)
            else:
                self._serve(resource, fault, request)
        finally:
            request.done = True

    def _serve(self, resource: Resource, fault: Fault | None, request: Request) -> None:
        if isinstance(fault, Status):
            extra = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send_status(request, fault.code, {**extra, **fault.headers}, fault.body)
        elif isinstance(fault, Garbage):
            self.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            self.close_connection = True
        elif isinstance(fault, CutHeaders):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n")
            self.close_connection = True
        elif resource.authorization and not (given := self.headers.get("Authorization")):
            self._send_status(request, 401)
        elif resource.authorization and given != resource.authorization:
            self._send_status(request, 403)
        elif resource.redirect is not None:
            self._send_status(request, resource.redirect_code, {"Location": resource.redirect})
        elif isinstance(fault, Instead):
            self._send_status(request, 200, {"Content-Type": fault.content_type}, fault.body)
        else:
            if isinstance(fault, Hang) and fault.after < 0:
                self._wait(fault.seconds)
            self._send_body(resource, fault, request)

    def _send_body(self, resource: Resource, fault: Fault | None, request: Request) -> None:
        body, start = resource.body, 0
        etag = fault.etag if isinstance(fault, Node) else resource.etag
        ranged = (
            resource.ranges
            and request.range is not None
            and not isinstance(fault, IgnoreRange)
            and (
                request.if_range is None
                or not resource.heeds_if_range
                or request.if_range in (etag, resource.last_modified)
            )
        )
        if ranged:
            start = request.offset
            if start >= len(body):
                self._send_status(request, 416, {"Content-Range": f"bytes */{len(body)}"})
                return
        request.status = 206 if ranged else 200
        self.send_response(request.status)
        if isinstance(fault, LieAboutRange):
            if fault.content_range is not None:
                self.send_header("Content-Range", fault.content_range)
        elif ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in (
            ("ETag", etag),
            ("Last-Modified", resource.last_modified),
            ("Content-Type", resource.content_type),
            ("Content-Disposition", resource.disposition),
            ("Content-Encoding", resource.content_encoding),
        ):
            left_out = ranged and resource.terse_ranges and name in ("Last-Modified", "Content-Type")
            if value is not None and not left_out:
                self.send_header(name, value)
        if resource.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif resource.lengthless:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if isinstance(fault, Flip):
            body = body[: fault.offset] + bytes([body[fault.offset] ^ 0xFF]) + body[fault.offset + 1 :]
        self._pour(body, start, resource, fault, request)

    def _pour(
        self, body: bytes, start: int, resource: Resource, fault: Fault | None, request: Request
    ) -> None:
        limit = len(body)
        if isinstance(fault, Cut | Hang) and fault.after >= 0:
            limit = min(limit, start + fault.after)
        block = _BLOCK if resource.rate is None else max(1, min(_BLOCK, resource.rate // 20))
        view, began = memoryview(body), time.monotonic()
        at = start
        while at < limit:
            piece = view[at : min(at + block, limit)]
            if resource.chunked:
                self.wfile.write(b"%x\r\n" % len(piece))
            self.wfile.write(piece)
            if resource.chunked:
                self.wfile.write(b"\r\n")
            at += len(piece)
            request.bytes_sent += len(piece)
            if resource.rate is not None:
                ahead = (at - start) / resource.rate - (time.monotonic() - began)
                if ahead > 0:
                    self._wait(ahead)
        if isinstance(fault, Hang) and at < len(body):
            self._wait(fault.seconds)
            self.close_connection = True
        elif isinstance(fault, Cut) and at < len(body):
            self.close_connection = True
            if fault.reset:
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.request.close()
        elif resource.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _wait(self, seconds: float) -> None:
        if self.server.owner._closing.wait(seconds):
            self.close_connection = True

    def _send_status(
        self, request: Request, code: int, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        request.status = code
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class HttpServer:
    """The server: put resources, fetch them, read what was asked for and how many bytes went out.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        tls: A file with certificate and key; serves https.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, tls: Path | None = None) -> None:
        self.resources: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server((host, port), _Handler)
        self._server.owner = self
        self.host, self.port = host, int(self._server.server_address[1])
        self._scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            # The handshake belongs to the connection's own thread, not to the one that accepts.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def put(self, path: str, resource: Resource) -> str:
        """Serve this at the path, or at a path with its query, from the next request on; returns its URL."""
        with self._lock:
            self.resources[path] = resource
        return self.url(path)

    def url(self, path: str, *, host: str | None = None) -> str:
        """Address of a path on this server."""
        return f"{self._scheme}://{host or self.host}:{self.port}{path}"

    def bytes_served(self, path: str) -> int:
        """Bytes of bodies that were written for this path, over all requests."""
        return sum(r.bytes_sent for r in self.requests_of(path))

    def requests_of(self, path: str) -> list[Request]:
        """The requests for this path (without query), in their order."""
        with self._lock:
            return [r for r in self.requests if r.path.split("?", 1)[0] == path]

    def stats(self) -> dict[str, Any]:
        """What was served so far, by path; what the process form answers at /_stats."""
        with self._lock:
            paths = sorted({r.path.split("?", 1)[0] for r in self.requests})
        return {
            path: {
                "bytes": self.bytes_served(path),
                "requests": [dataclasses.asdict(r) for r in self.requests_of(path)],
            }
            for path in paths
        }

    def _begin(self, path: str, request: Request) -> tuple[Resource | None, Fault | None]:
        with self._lock:
            self.requests.append(request)
            resource = self.resources.get(request.path) or self.resources.get(path)
            fault = resource.faults.pop(0) if resource and resource.faults else None
            return resource, fault


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the standard input ends or a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m support.httpserver", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=int, default=None, help="bytes a second of each connection")
    parser.add_argument("--no-ranges", action="store_true", help="ignore Range headers")
    parser.add_argument("--pattern", action="append", default=[], metavar="/PATH=SIZE")
    parser.add_argument("--file", action="append", default=[], metavar="/PATH=FILE")
    args = parser.parse_args(argv)
    with HttpServer(port=args.port) as server:
        for item in args.pattern:
            path, size = item.rsplit("=", 1)
            server.put(path, Resource(pattern(int(size)), rate=args.rate, ranges=not args.no_ranges))
        for item in args.file:
            path, name = item.split("=", 1)
            body = Path(name).read_bytes()
            server.put(path, Resource(body, rate=args.rate, ranges=not args.no_ranges))
        print(server.url(""), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
