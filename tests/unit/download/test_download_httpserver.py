"""The misbehaving HTTP server as a process, as integration tests and demos start it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

from support.httpserver import HttpServer, Part, Resource, Trailing, pattern
from support.waiting import wait_until


def test_the_server_runs_as_a_process_and_counts_what_it_serves(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from a file")
    command = [sys.executable, "-m", "support.httpserver", "--pattern", "/p.bin=1000"]
    with subprocess.Popen(
        [*command, "--file", f"/f={tmp_path / 'f'}"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        base = process.stdout.readline().strip()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def get(path: str, **headers: str) -> bytes:
            with opener.open(urllib.request.Request(base + path, headers=headers), timeout=5) as answer:
                return bytes(answer.read())

        assert get("/f") == b"from a file"
        assert get("/p.bin") == pattern(1000)
        assert get("/p.bin", Range="bytes=900-") == pattern(1000)[900:]
        stats = json.loads(get("/_stats"))
        assert stats["/p.bin"]["bytes"] == 1100
        assert [r["range"] for r in stats["/p.bin"]["requests"]] == [None, "bytes=900-"]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0


def test_ranges_end_where_they_are_asked_to_and_connections_are_kept(web: HttpServer) -> None:
    body = pattern(1000)
    web.put("/m.bin", Resource(body, faults=[Part(50), Trailing(b"more")]))
    with socket.create_connection((web.host, web.port), timeout=5) as connection:
        got = b""
        for asked, end in (("0-99", body[:50]), ("100-199", body[100:200] + b"more")):
            head = f"GET /m.bin HTTP/1.1\r\nHost: x\r\nRange: bytes={asked}\r\n\r\n"
            connection.sendall(head.encode())
            while not got.endswith(end):
                got += connection.recv(65536)
    assert got.count(b"HTTP/1.1 206") == 2
    assert b"Content-Range: bytes 0-49/1000\r\n" in got
    assert b"Content-Range: bytes 100-199/1000\r\n" in got
    first, second = web.requests
    assert (first.connection, first.active, first.end(1000)) == (second.connection, 1, 100)


def test_requests_beyond_what_is_served_at_once_wait_for_the_others(web: HttpServer) -> None:
    web.put("/m.bin", Resource(pattern(4000), rate=20_000, at_once=1))
    connections = [HTTPConnection(web.host, web.port, timeout=5) for _ in range(3)]
    for connection in connections:
        connection.request("GET", "/m.bin")
    assert {connection.getresponse().read() for connection in connections} == {pattern(4000)}
    for connection in connections:
        connection.close()
    wait_until(lambda: all(request.done for request in web.requests))
    first, second, third = web.requests
    assert first.ended <= second.ended <= third.ended
    assert second.ended - first.ended >= 0.15
    assert {first.active, second.active, third.active} == {1, 2, 3}
