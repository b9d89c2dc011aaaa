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
import itertools
import json
import random
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from support.httpfaults import Cut as Cut
from support.httpfaults import CutHeaders as CutHeaders
from support.httpfaults import Fault as Fault
from support.httpfaults import Flip as Flip
from support.httpfaults import Garbage as Garbage
from support.httpfaults import Goodbye as Goodbye
from support.httpfaults import Hang as Hang
from support.httpfaults import IgnoreRange as IgnoreRange
from support.httpfaults import Instead as Instead
from support.httpfaults import LieAboutRange as LieAboutRange
from support.httpfaults import Multipart as Multipart
from support.httpfaults import Node as Node
from support.httpfaults import Other as Other
from support.httpfaults import Part as Part
from support.httpfaults import Reset as Reset
from support.httpfaults import Slow as Slow
from support.httpfaults import Status as Status
from support.httpfaults import Trailing as Trailing
from support.httpresources import Request as Request
from support.httpresources import Resource as Resource

_BLOCK = 64 * 1024


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that look random and are the same for the same size and seed."""
    source, piece = random.Random(seed), 64 << 20
    return b"".join(source.randbytes(min(piece, size - at)) for at in range(0, size, piece))


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
        self._number = next(self.server.owner._connections)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """No log: tests read `requests`."""

    def do_HEAD(self) -> None:
        if self.server.owner.route is None:
            self.send_error(405)
        else:
            self.do_GET()

    do_POST = do_HEAD

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
            self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode("latin-1"),
            began=time.monotonic(),
            connection=self._number,
        )
        resource, fault = owner._begin(path, request)
        try:
            if resource is None:
                self._send_status(request, 404)
            elif owner._takes_turn(path, resource.at_once, request):
                self._serve(resource, fault, request)
            else:
                self.close_connection = True
        finally:
            owner._end(path, request)

    def _serve(self, resource: Resource, fault: Fault | None, request: Request) -> None:
        if isinstance(fault, Hang) and fault.after < 0:
            self._wait(fault.seconds)
        if isinstance(fault, Status):
            extra = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send_status(request, fault.code, {**extra, **fault.headers}, fault.body)
        elif isinstance(fault, Garbage):
            self.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            self.close_connection = True
        elif isinstance(fault, Reset):
            self._reset()
        elif isinstance(fault, CutHeaders):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n")
            self.close_connection = True
        elif resource.authorization and not (given := self.headers.get("Authorization")):
            self._send_status(request, 401)
        elif resource.authorization and given != resource.authorization:
            self._send_status(request, 403)
        elif resource.redirect is not None:
            headers = {**resource.headers, "Location": resource.redirect}
            self._send_status(request, resource.redirect_code, headers)
        elif resource.status != 200:
            headers = {"Content-Type": resource.content_type or "", **resource.headers}
            self._send_status(request, resource.status, headers, resource.body[:])
        elif isinstance(fault, Instead):
            self._send_status(request, 200, {"Content-Type": fault.content_type}, fault.body)
        else:
            self._send_body(resource, fault, request)

    def _send_body(self, resource: Resource, fault: Fault | None, request: Request) -> None:
        if isinstance(fault, Other):
            body = resource.body if fault.body is None else fault.body
            resource = dataclasses.replace(
                resource, body=body, etag=fault.etag, last_modified=fault.last_modified, heeds_if_range=False
            )
        body, start, end = resource.body, 0, len(resource.body)
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
            start, end = request.offset, request.end(len(body))
            if isinstance(fault, Part):
                end = min(end, start + fault.size)
            if start >= len(body):
                self._send_status(request, 416, {"Content-Range": f"bytes */{len(body)}"})
                return
        request.status = 206 if ranged else 200
        if resource.http10:
            self.protocol_version, self.close_connection = "HTTP/1.0", True
        self.send_response(request.status)
        served = f"bytes {start}-{end - 1}/{len(body)}"
        if isinstance(fault, Multipart) and ranged:
            self._send_multipart(body[start:end], served, etag)
            return
        if isinstance(fault, LieAboutRange):
            if fault.content_range is not None:
                self.send_header("Content-Range", fault.content_range)
        elif ranged:
            self.send_header("Content-Range", served)
        for name, value in (
            ("ETag", etag),
            ("Last-Modified", resource.last_modified),
            ("Content-Type", resource.content_type),
            ("Content-Disposition", resource.disposition),
            ("Content-Encoding", resource.content_encoding),
            *resource.headers.items(),
        ):
            left_out = ranged and resource.terse_ranges and name in ("Last-Modified", "Content-Type")
            if value is not None and not left_out:
                self.send_header(name, value)
        if resource.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif resource.lengthless:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(fault, Flip):
            body = (
                body[: fault.offset]
                + bytes(byte ^ 0xFF for byte in body[fault.offset : fault.offset + 1])
                + body[fault.offset + 1 :]
            )
        # A view of bytes copies none of them.
        view: Any = memoryview(body) if isinstance(body, bytes) else body
        self._pour(view, start, end, resource, fault, request)

    def _send_multipart(self, part: bytes, served: str, etag: str | None) -> None:
        head = f"--apart\r\nContent-Type: application/octet-stream\r\nContent-Range: {served}\r\n\r\n"
        body = head.encode() + part + b"\r\n--apart--\r\n"
        self.send_header("Content-Type", "multipart/byteranges; boundary=apart")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag or "")
        self.end_headers()
        self.wfile.write(body)

    def _pour(
        self, view: Any, start: int, end: int, resource: Resource, fault: Fault | None, request: Request
    ) -> None:
        limit = end
        if isinstance(fault, Cut | Hang) and fault.after >= 0:
            limit = min(limit, start + fault.after)
        rate = fault.rate if isinstance(fault, Slow) else resource.rate
        block = _BLOCK if rate is None else max(1, min(_BLOCK, rate // 20))
        began, at = time.monotonic(), start
        while at < limit:
            piece = view[at : min(at + block, limit)]
            if resource.chunked:
                self.wfile.write(b"%x\r\n" % len(piece))
            self.wfile.write(piece)
            if resource.chunked:
                self.wfile.write(b"\r\n")
            at += len(piece)
            request.bytes_sent += len(piece)
            if not isinstance(fault, Slow):
                rate = resource.rate  # which a test may lift in the middle of a body
            if rate is not None:
                ahead = (at - start) / rate - (time.monotonic() - began)
                if ahead > 0:
                    self._wait(ahead)
        if isinstance(fault, Hang) and at < end:
            self._wait(fault.seconds)
            self.close_connection = True
        elif isinstance(fault, Cut) and at < end:
            self.close_connection = True
            if fault.reset:
                self._reset()
        elif resource.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if isinstance(fault, Trailing):
            self.wfile.write(fault.extra)
        elif isinstance(fault, Goodbye):
            self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()

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
        if self.command != "HEAD":
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
        route: Answers what no resource was put for, HEAD and POST as well; called by several threads.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: Path | None = None,
        route: Callable[[Request], Resource | None] | None = None,
    ) -> None:
        self.route = route
        self.resources: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self._lock = threading.RLock()  # a rule for faults may ask, and put
        self._connections = itertools.count(1)
        self._active: Counter[str] = Counter()
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

    def active(self, path: str) -> int:
        """How many answers for this path (without query) are being sent."""
        with self._lock:
            return self._active[path]

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
        routed = self.route(request) if self.route is not None else None
        with self._lock:
            self.requests.append(request)
            resource = self.resources.get(request.path) or self.resources.get(path) or routed
            self._active[path] += 1
            request.active = self._active[path]
            if resource is None:
                return None, None
            return resource, resource.faults.pop(0) if resource.faults else resource.fault_of(request)

    def _end(self, path: str, request: Request) -> None:
        with self._lock:
            self._active[path] -= 1
            request.ended = time.monotonic()
            request.done = True

    def _takes_turn(self, path: str, at_once: int | None, request: Request) -> bool:
        """Wait until a request is one of the `at_once` oldest under way; whether that came."""
        while at_once is not None:
            under_way = [r for r in self.requests_of(path) if not r.done]
            if any(r is request for r in under_way[:at_once]):
                return True
            if self._closing.wait(0.01):
                return False
        return True


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
