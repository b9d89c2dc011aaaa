"""Several connections for one file: what goes wrong on one costs neither the file nor many bytes twice."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_download.engine.lanes import Lanes
from support.downloads import DownloadClient, download_service
from support.httpserver import (
    Cut,
    CutHeaders,
    Fault,
    Garbage,
    Goodbye,
    Hang,
    HttpServer,
    IgnoreRange,
    Instead,
    LieAboutRange,
    Multipart,
    Other,
    Part,
    Request,
    Reset,
    Resource,
    Slow,
    Status,
    Trailing,
    pattern,
)
from support.ledger import sent, united
from support.waiting import until

MIB = 1 << 20
BODY, OTHER = pattern(8 * MIB), pattern(8 * MIB, seed=9)
SHA256 = hashlib.sha256(BODY).hexdigest()
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED
#: Bytes a second of a connection: so few that more connections help, and all is there in seconds.
RATE = 2 * MIB
#: What the kernels may hold of a connection that is given up; the server counts it as sent.
BUFFERED = MIB

pytestmark = pytest.mark.timeout(60)


def also(value: object) -> ParameterSet:
    """One more of a kind, with the long tests."""
    return pytest.param(value, marks=pytest.mark.long)


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=3, headers_timeout_s=5, stall_timeout_s=20) as service:
        yield service


def extra(fault: Fault, *, times: int = 1000) -> Callable[[Request], Fault | None]:
    """A fault of all requests but those on the connection that came first, so often."""
    first: list[int] = []
    left = times

    def fault_of(request: Request) -> Fault | None:
        nonlocal left
        first.append(request.connection)
        if request.connection == first[0] or left <= 0:
            return None
        left -= 1
        return fault

    return fault_of


def with_faults(fault_of: Callable[[Request], Fault | None], rate: int | None = RATE) -> Resource:
    return Resource(BODY, rate=rate, fault_of=fault_of)


def served(web: HttpServer, path: str = "/m.bin") -> int:
    """Bytes of the object that went out."""
    return sum(end - first for first, end in map(sent, web.requests_of(path)))


def at_once(web: HttpServer, path: str = "/m.bin") -> int:
    """The most requests that were under way at the same time."""
    return max(request.active for request in web.requests_of(path))


async def check_arrives(
    client: DownloadClient, web: HttpServer, resource: Resource, *, tries: int = 1
) -> download_pb2.Download:
    """Fetch it twice, with an expected hash and without: it arrives, and nothing was begun anew."""
    for path, expected in (("/m.bin", ""), ("/n.bin", SHA256)):
        job = await client.run(web.put(path, resource), expected_sha256=expected)
        assert (job.state, job.sha256, job.restarts) == (COMPLETED, SHA256, 0), job
        assert job.attempt <= tries, job
        assert Path(job.path).read_bytes() == BODY
    return job


async def test_a_slow_source_gets_more_connections_and_each_byte_is_fetched_once(
    client: DownloadClient, web: HttpServer
) -> None:
    await check_arrives(client, web, Resource(BODY, rate=RATE))
    assert 4 <= at_once(web) <= 16
    ranges = [sent(request) for request in web.requests_of("/m.bin")]
    assert united(ranges) == [(0, len(BODY))]
    assert served(web) <= len(BODY) + BUFFERED  # the first answer is of the whole, and others take from it


@pytest.mark.parametrize("code", [403, 429, *(also(code) for code in (400, 401, 404, 416, 500, 503))])
async def test_a_source_that_refuses_a_second_connection_has_one(
    client: DownloadClient, web: HttpServer, code: int
) -> None:
    await check_arrives(client, web, with_faults(extra(Status(code)), rate=10 * MIB))
    for path in ("/m.bin", "/n.bin"):
        requests = web.requests_of(path)
        assert sum(request.status == code for request in requests) <= 3, "it was told"
        assert served(web, path) == len(BODY)


@pytest.mark.parametrize("code", [403, also(429), also(503)])
async def test_a_source_that_bears_three_connections_has_three(
    client: DownloadClient, web: HttpServer, code: int
) -> None:
    def fault_of(request: Request) -> Fault | None:
        return Status(code) if request.active > 3 else None

    await check_arrives(client, web, with_faults(fault_of))
    refused = [request for request in web.requests if request.status == code]
    assert 0 < len(refused) <= 20
    assert {r.active for r in web.requests_of("/m.bin") if r.status != code} == {1, 2, 3}
    assert served(web) <= len(BODY) + 3 * BUFFERED


async def test_connections_that_wait_without_an_answer_hold_nobody_up(
    client: DownloadClient, web: HttpServer
) -> None:
    await check_arrives(client, web, Resource(BODY, rate=4 * MIB, at_once=1))


@pytest.mark.parametrize(
    "fault",
    [
        Other('"v2"', body=OTHER),
        also(Other(last_modified="Tue, 01 Jan 2019 00:00:00 GMT", body=OTHER)),
        also(Other('"v1"', body=OTHER[: 7 * MIB])),
        LieAboutRange("bytes 0-99/8388608"),
        also(LieAboutRange(None)),
        also(Part(1000)),
        Multipart(),
        also(IgnoreRange()),
        also(Instead(b"<!doctype html><title>log in</title>")),
        also(Instead(b'{"error": "too many"}', "application/json")),
        also(Garbage()),
        also(CutHeaders()),
        Reset(),
    ],
    ids=lambda fault: repr(fault)[:40],
)
async def test_an_extra_connection_that_serves_something_else_is_not_believed(
    client: DownloadClient, web: HttpServer, fault: Fault
) -> None:
    await check_arrives(client, web, with_faults(extra(fault), rate=10 * MIB))
    # What it sent is not counted: a 200 in place of a range is closed once its head was read.
    assert served(web) <= len(BODY) + 4 * BUFFERED


@pytest.mark.parametrize(
    "fault", [also(Cut(0, reset=True)), Cut(300_000, reset=True), also(Cut(1)), Goodbye()], ids=repr
)
async def test_connections_that_break_are_made_again_or_done_without(
    client: DownloadClient, web: HttpServer, fault: Fault
) -> None:
    luck = random.Random(3)

    def fault_of(request: Request) -> Fault | None:
        return fault if request.range and luck.random() < 0.4 else None

    await check_arrives(client, web, with_faults(fault_of), tries=3)
    assert united(sent(request) for request in web.requests_of("/m.bin")) == [(0, len(BODY))]


async def test_a_connection_that_breaks_at_the_last_byte_costs_that_byte(
    client: DownloadClient, web: HttpServer
) -> None:
    luck = random.Random(4)

    def fault_of(request: Request) -> Fault | None:
        whole = request.end(len(BODY)) - request.offset
        return Cut(whole - 1) if request.range and luck.random() < 0.4 else None

    await check_arrives(client, web, with_faults(fault_of), tries=3)
    assert served(web) <= len(BODY) + BUFFERED


@pytest.mark.parametrize(
    "fault",
    [
        Trailing(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nwrong"),
        also(Trailing(b"\0" * 100)),
    ],
    ids=["an answer", "nothing known"],
)
async def test_what_a_connection_sends_unasked_is_not_taken_for_the_next_answer(
    client: DownloadClient, web: HttpServer, fault: Fault
) -> None:
    await check_arrives(client, web, with_faults(lambda request: fault if request.range else None))


@pytest.mark.parametrize("fault", [Hang(100_000, 60), also(Hang(-1, 60)), also(Slow(50_000))], ids=repr)
async def test_what_one_connection_hardly_brings_others_fetch(
    client: DownloadClient, web: HttpServer, fault: Fault
) -> None:
    resource = with_faults(extra(fault, times=1))
    await check_arrives(client, web, resource)
    assert served(web) <= len(BODY) + 2 * BUFFERED


async def test_wrong_bytes_on_one_connection_are_found_by_the_hash_and_all_is_fetched_once_more(
    client: DownloadClient, web: HttpServer
) -> None:
    wrong = Other('"v1"', body=OTHER)
    job = await client.run(web.put("/m.bin", with_faults(extra(wrong, times=1))), expected_sha256=SHA256)
    assert (job.state, job.verified, job.restarts) == (COMPLETED, True, 1), job
    assert Path(job.path).read_bytes() == BODY


async def test_bytes_that_stay_wrong_are_set_apart_and_not_fetched_a_third_time(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.run(web.put("/m.bin", Resource(OTHER, rate=RATE)), expected_sha256=SHA256)
    assert (job.state, job.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    assert Path(job.error.metadata["quarantined_path"]).stat().st_size == len(OTHER)
    assert not (client.folder / "m.bin").exists()
    assert served(web) <= 2 * (len(BODY) + BUFFERED)


async def test_an_object_that_changes_between_pieces_is_fetched_anew_and_never_mixed(
    client: DownloadClient, web: HttpServer
) -> None:
    for number, etags in enumerate((('"v1"', '"v2"'), (None, None))):
        path = f"/{number}.bin"
        dates = [None, None] if etags[0] else [f"Tue, 01 Jan {year} 00:00:00 GMT" for year in (2019, 2020)]
        old, new = (
            Resource(body, etag=etag, last_modified=date, rate=RATE)
            for body, etag, date in zip((BODY, OTHER), etags, dates, strict=True)
        )
        job = await client.create(web.put(path, old))
        await client.until(job, lambda now: now.progress.bytes_done > 3 * MIB)
        web.put(path, new)
        done = await client.ended(job)
        assert done.state == COMPLETED, done
        # What was asked for before the change may have brought all of the old one.
        assert Path(done.path).read_bytes() == (OTHER if done.restarts else BODY)


async def test_an_address_that_runs_out_is_asked_for_anew_once_for_all_connections(
    client: DownloadClient, web: HttpServer
) -> None:
    good = ["sig=0"]

    def fault_of(request: Request) -> Fault | None:
        if len(web.requests_of("/storage.bin")) == 4 and good == ["sig=0"]:
            good[:] = ["sig=1"]
            web.put("/m.bin", Resource(b"", redirect=web.url("/storage.bin?sig=1", host="localhost")))
        return None if request.path.endswith(good[0]) else Status(403)

    web.put("/storage.bin", with_faults(fault_of))
    url = web.put("/m.bin", Resource(b"", redirect=web.url("/storage.bin?sig=0", host="localhost")))
    job = await client.run(url)
    assert (job.state, job.sha256, job.restarts, job.attempt) == (COMPLETED, SHA256, 0, 1), job
    assert good == ["sig=1"]
    assert len(web.requests_of("/m.bin")) == 2
    assert served(web, "/storage.bin") <= len(BODY) + BUFFERED
    assert "sig" not in str(job)


@pytest.mark.parametrize(
    "resource",
    [Resource(BODY, chunked=True), Resource(BODY, lengthless=True), Resource(BODY, http10=True, etag=None)],
    ids=["chunked", "without a length", "without a validator"],
)
async def test_what_cannot_be_shared_comes_over_one_connection(
    client: DownloadClient, web: HttpServer, resource: Resource
) -> None:
    await check_arrives(client, web, resource)
    assert (len(web.requests_of("/m.bin")), served(web)) == (1, len(BODY))


async def test_a_pause_ends_all_connections_at_once_and_a_start_fetches_only_what_lacks(
    client: DownloadClient, web: HttpServer
) -> None:
    job = await client.create(web.put("/m.bin", Resource(BODY, rate=RATE)))
    await client.until(job, lambda now: now.progress.bytes_done > 3 * MIB)
    paused = (await client.stub.PauseDownload(pb.PauseDownloadRequest(id=job.id))).download
    assert paused.state == PAUSED
    most = at_once(web)
    assert most > 1
    await until(lambda: all(request.done for request in web.requests))
    assert (await client.get(job)).progress.bytes_done == paused.progress.bytes_done
    first = served(web)
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    done = await client.ended(job)
    assert (done.state, done.sha256, done.restarts) == (COMPLETED, SHA256, 0)
    assert served(web) - first <= len(BODY) - paused.progress.bytes_done + BUFFERED


async def test_a_host_has_no_more_connections_than_it_may_whoever_wants_them(
    data_dir: Path, web: HttpServer
) -> None:
    async with download_service(data_dir, max_connections_per_host=6) as client:
        urls = [web.put(f"/{number}.bin", Resource(BODY, rate=RATE)) for number in range(4)]
        jobs = [await client.create(url) for url in urls]
        most = before = 0
        for job in jobs:
            while not (now := await client.get(job)).ended:
                # Those that fetch, not those kept for later; the end of one may overlap with the next.
                active = sum(web.active(f"/{number}.bin") for number in range(4))
                most, before = max(most, min(active, before)), active
                await asyncio.sleep(0.02)
            assert (now.state, now.sha256) == (COMPLETED, SHA256)
        assert 4 <= most <= 6 + 3  # those that came later have their first one all the same


async def test_connections_that_find_nothing_to_do_are_not_replaced_for_ever(
    client: DownloadClient, web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Lanes] = []
    real = Lanes._open_lane

    def counted(lanes: Lanes) -> bool:
        opened.append(lanes)
        return real(lanes)

    monkeypatch.setattr(Lanes, "_open_lane", counted)
    monkeypatch.setattr(Lanes, "_surplus", lambda lanes, lane: lane.extra)  # each ends as it begins
    job = await client.run(web.put("/m.bin", Resource(BODY, rate=8 * MIB)))
    assert (job.state, job.sha256) == (COMPLETED, SHA256)
    assert 0 < len(opened) < 200
