"""What goes wrong on the way to a source and back, over real sockets: names, connections, answers' forms."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2
from support.downloads import DownloadClient, download_service
from support.httpserver import (
    Cut,
    Fault,
    Goodbye,
    HttpServer,
    Multipart,
    Part,
    Reset,
    Resource,
    Status,
    Trailing,
    pattern,
)

BODY = pattern(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED
#: Many addresses reach this machine; tests give names to them.
NAME = "models.example"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=3, connect_timeout_s=0.5) as service:
        yield service


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Addresses by name, one list for each time that the name is looked up (the last one stays)."""
    known: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        if host not in known:
            return real(host, port, *args, **named)
        found = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        if not found:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [answer for address in found for answer in real(address, port, *args, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@contextlib.contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """A port at which connections are neither taken nor refused: what waits to be accepted is full."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]


async def test_a_host_that_takes_no_connection_is_given_up_in_time(client: DownloadClient) -> None:
    with black_hole("127.0.0.1") as port:
        began = time.monotonic()
        job = await client.run(f"http://127.0.0.1:{port}/m.bin")
    assert (job.state, job.error.reason, job.attempt) == (ERROR, "UPSTREAM_UNAVAILABLE", 3)
    assert 1.4 < time.monotonic() - began < 20  # the system's own patience is two minutes


async def test_an_address_that_takes_no_connection_is_no_obstacle_if_the_name_has_another(
    client: DownloadClient, web: HttpServer, names: dict[str, list[list[str]]]
) -> None:
    web.put("/m.bin", Resource(BODY))
    names[NAME] = [["127.0.0.2", "127.0.0.1"]]
    with black_hole("127.0.0.2", web.port):
        job = await client.run(f"http://{NAME}:{web.port}/m.bin")
    assert (job.state, job.sha256, job.attempt) == (COMPLETED, SHA256, 1)


async def test_a_name_that_leads_elsewhere_meanwhile_is_looked_up_again(
    client: DownloadClient, web: HttpServer, names: dict[str, list[list[str]]]
) -> None:
    with HttpServer("127.0.0.2", web.port) as moved:
        web.put("/m.bin", Resource(BODY, faults=[Cut(100_000), Reset(), Reset()]))
        moved.put("/m.bin", Resource(BODY))
        names[NAME] = [["127.0.0.1"], ["127.0.0.2"]]
        job = await client.run(f"http://{NAME}:{web.port}/m.bin")
        assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0)
        assert [request.range for request in moved.requests][:1] == ["bytes=100000-"]
        assert len(web.requests) == 1


async def test_a_name_that_cannot_be_resolved_for_a_moment_is_tried_again(
    client: DownloadClient, web: HttpServer, names: dict[str, list[list[str]]]
) -> None:
    web.put("/m.bin", Resource(BODY))
    names[NAME] = [[], [], ["127.0.0.1"]]
    job = await client.run(f"http://{NAME}:{web.port}/m.bin")
    assert (job.state, job.sha256, job.attempt) == (COMPLETED, SHA256, 3)


@pytest.mark.parametrize("fault", [Reset(), Cut(0, reset=True)], ids=["before the head", "behind the head"])
async def test_a_connection_reset_before_a_byte_came_is_made_again(
    client: DownloadClient, web: HttpServer, fault: Fault
) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY, faults=[fault, fault])))
    assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0)
    assert len(web.requests) == 3


@pytest.mark.parametrize(
    "resource",
    [
        Resource(BODY, http10=True),
        Resource(BODY, http10=True, lengthless=True),
        Resource(BODY, fault_of=lambda request: Goodbye()),
        Resource(
            BODY, fault_of=lambda request: Trailing(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        ),
        Resource(BODY, terse_ranges=True),
    ],
    ids=["HTTP/1.0", "HTTP/1.0 without a length", "closes unsaid", "sends more than was asked", "terse"],
)
async def test_what_is_odd_about_a_connection_is_no_obstacle(
    client: DownloadClient, web: HttpServer, resource: Resource
) -> None:
    job = await client.run(web.put("/m.bin", resource), expected_sha256=SHA256)
    assert (job.state, job.verified, job.restarts, job.attempt) == (COMPLETED, True, 0, 1), job
    assert web.bytes_served("/m.bin") == len(BODY)


@pytest.mark.parametrize("fault", [Multipart(), Part(50_000)], ids=["multipart", "less than was asked for"])
async def test_a_range_in_another_form_than_asked_for_is_never_taken_for_the_rest(
    client: DownloadClient, web: HttpServer, fault: Fault
) -> None:
    for number, hashed in enumerate(("", SHA256)):
        path = f"/{number}.bin"
        url = web.put(path, Resource(BODY, faults=[Cut(100_000), fault]))
        job = await client.run(url, expected_sha256=hashed)
        assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), job
        assert Path(job.path).read_bytes() == BODY


async def test_an_object_that_became_shorter_than_what_is_there_is_fetched_anew(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(200_000), Status(503)]))
    job = await client.create(url)
    await client.until(job, lambda now: now.progress.bytes_done == 200_000)
    web.put("/m.bin", Resource(BODY[:150_000], etag='"v2"', heeds_if_range=False))  # 416, bytes */150000
    done = await client.ended(job)
    assert (done.state, done.restarts, done.progress.bytes_done) == (COMPLETED, 1, 150_000), done
    assert Path(done.path).read_bytes() == BODY[:150_000]


async def test_a_login_page_in_the_middle_costs_no_byte_that_is_there(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.bin", Resource(BODY, faults=[Cut(100_000)]))
    job = await client.create(url)
    await client.until(job, lambda now: now.progress.bytes_done == 100_000)
    web.put("/m.bin", Resource(b"<!doctype html><title>log in</title>", content_type="text/html", etag=None))
    paused = await client.until(job, lambda now: now.state in (PAUSED, ERROR))
    assert (paused.state, paused.progress.bytes_done, paused.error.reason) == (
        PAUSED,
        100_000,
        "NOT_A_MODEL_FILE",
    )
