"""Watches against a real server that breaks off as written down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from grpc import aio

from modelkeep.client import AsyncClient, Client, _watch
from modelkeep.exceptions import (
    ModelkeepError,
    ResumeTokenExpiredException,
    ServerDrainingException,
    UnavailableException,
    WatcherTooSlowException,
)
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.install.v1.install_service_pb2_grpc import (
    InstallServiceServicer,
    add_InstallServiceServicer_to_server,
)
from modelkeep.server.v1 import job_pb2, watch_pb2
from modelkeep_common.calls.status import CODES, domain_of, to_status
from support.scripted import serving
from support.waiting import until

RUNNING = install_pb2.INSTALL_STATE_RUNNING


def frame(id: int, token: str, *, live: bool = True, last: bool = False) -> pb.WatchInstallsResponse:
    install = install_pb2.Install(id=id, state=RUNNING, revision=id)
    return pb.WatchInstallsResponse(
        phase=watch_pb2.WATCH_PHASE_LIVE if live else watch_pb2.WATCH_PHASE_SNAPSHOT,
        snapshot_complete=last,
        resume_token=token,
        events=[pb.InstallEvent(revision=id, put=install)],
    )


class Scripted(InstallServiceServicer):
    """Each stream plays one script: frames, then an exception, or waiting if it is None."""

    def __init__(self, *scripts: tuple[list[pb.WatchInstallsResponse], ModelkeepError | None]) -> None:
        self.scripts = list(scripts)
        self.requests: list[pb.WatchInstallsRequest] = []
        self.open = 0
        self.deadlines: list[float | None] = []

    async def WatchInstalls(
        self, request: pb.WatchInstallsRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchInstallsResponse]:
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        self.open += 1
        try:
            frames, end = self.scripts.pop(0) if self.scripts else ([], None)
            for item in frames:
                yield item
            if end is None:
                await asyncio.sleep(60)
            else:
                details = to_status(end, domain_of("install")).SerializeToString()
                metadata = (("grpc-status-details-bin", details),)
                await context.abort(CODES[end.code], end.message, metadata)
        finally:
            self.open -= 1


def scripted(*scripts: tuple[list[pb.WatchInstallsResponse], ModelkeepError | None]) -> Scripted:
    return Scripted(*scripts)  # type: ignore[abstract]  # what is not defined is not called


@contextlib.asynccontextmanager
async def client_of(servicer: Scripted) -> AsyncIterator[AsyncClient]:
    def register(server: aio.Server) -> None:
        add_InstallServiceServicer_to_server(servicer, server)

    async with serving(register) as address, AsyncClient(install=address) as client:
        yield client


async def take(client: AsyncClient, count: int, **arguments: Any) -> list[Any]:
    frames: list[Any] = []
    async with contextlib.aclosing(client.model_install.watch(**arguments)) as watch:
        async for item in watch:
            frames.append(item)
            if len(frames) == count:
                break
    return frames


async def test_a_watch_goes_on_with_the_last_token_when_the_stream_breaks() -> None:
    service = scripted(
        ([frame(1, "t1", live=False, last=True), frame(2, "t2")], ServerDrainingException("bye")),
        ([frame(3, "t3")], None),
    )
    async with client_of(service) as client:
        frames = await take(client, 3)
    assert [item.events[0].id for item in frames] == [1, 2, 3]
    assert [item.phase for item in frames] == ["snapshot", "live", "live"]
    assert [request.resume_token for request in service.requests] == ["", "t2"]
    assert not any(item.restarted for item in frames)


def moved(id: int, revision: int, done: int) -> pb.WatchInstallsResponse:
    told = job_pb2.JobProgress(id=id, revision=revision, progress=job_pb2.Progress(bytes_done=done))
    return pb.WatchInstallsResponse(phase=watch_pb2.WATCH_PHASE_LIVE, events=[pb.InstallEvent(progress=told)])


async def test_progress_comes_with_the_job_as_it_was_told_last_also_after_a_resume() -> None:
    service = scripted(
        ([frame(5, "t1", live=False, last=True), moved(5, 5, 10)], ServerDrainingException("bye")),
        ([moved(5, 5, 20), moved(5, 4, 30), moved(6, 6, 1)], None),
    )
    async with client_of(service) as client:
        frames = await take(client, 5)
    events = [[(e.put.message.state, e.put.bytes, e.progress) for e in item.events] for item in frames]
    # Of before the last change, and of a job that nobody named: neither can be told.
    assert events == [[(RUNNING, 0, False)], [(RUNNING, 10, True)], [(RUNNING, 20, True)], [], []]


async def test_a_token_that_is_too_old_begins_a_new_snapshot_and_tells() -> None:
    service = scripted(
        ([], ResumeTokenExpiredException("too old")),
        ([frame(1, "s1", live=False), frame(2, "s2", live=False, last=True)], None),
    )
    async with client_of(service) as client:
        frames = await take(client, 2, resume_token="old", skip_snapshot=True)
    assert [request.resume_token for request in service.requests] == ["old", ""]
    assert [request.skip_snapshot for request in service.requests] == [True, False]
    assert [item.restarted for item in frames] == [True, False]


async def test_a_watcher_that_was_too_slow_goes_on_from_the_token_it_is_told() -> None:
    slow = WatcherTooSlowException("slow", metadata={"resume_token": "told"})
    service = scripted(([frame(1, "t1", live=False, last=True)], slow), ([frame(2, "t2")], None))
    async with client_of(service) as client:
        await take(client, 2)
    assert service.requests[1].resume_token == "told"


async def test_leaving_a_watch_ends_its_stream_at_the_service() -> None:
    service = scripted(([frame(1, "t1", live=False, last=True)], None))
    async with client_of(service) as client:
        await take(client, 1)
        await until(lambda: service.open == 0)


async def test_an_error_that_a_new_try_would_not_mend_ends_the_watch() -> None:
    service = scripted(([], ModelkeepError("broken")))
    async with client_of(service) as client:
        with pytest.raises(ModelkeepError, match="broken"):
            await take(client, 1)
    assert len(service.requests) == 1


async def test_a_stream_has_a_deadline_too() -> None:
    service = scripted(([frame(1, "t1", live=False, last=True)], None))
    async with client_of(service) as client:
        await take(client, 1)
    assert service.deadlines[0] is not None
    # gRPC rounds a long time-out up on the wire, by some seconds.
    assert 3000 < service.deadlines[0] < 3700


async def test_a_service_that_was_never_there_ends_the_watch_soon() -> None:
    async with AsyncClient(install="127.0.0.1:1") as client, asyncio.timeout(30):
        with pytest.raises(UnavailableException):
            await take(client, 1)


def test_the_blocking_client_iterates_and_an_early_end_closes_the_stream() -> None:
    service = scripted(([frame(1, "t1", live=False, last=True), frame(2, "t2")], None))
    loop = asyncio.new_event_loop()

    async def serve(use: Callable[[str], None]) -> None:
        def register(server: aio.Server) -> None:
            add_InstallServiceServicer_to_server(service, server)

        async with serving(register) as address:
            await asyncio.to_thread(use, address)
            await until(lambda: service.open == 0)

    def use(address: str) -> None:
        with Client(install=address) as client:
            watch = client.model_install.watch()
            assert [next(watch).events[0].id, next(watch).events[0].id] == [1, 2]
            watch.close()

    try:
        loop.run_until_complete(serve(use))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def test_a_watch_says_for_how_long_its_service_has_been_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "AWAY_S", 0.0)
    service = scripted(
        ([frame(1, "t1", live=False, last=True)], ServerDrainingException("bye")), ([frame(2, "t2")], None)
    )
    async with client_of(service) as client:
        first, away, second = await take(client, 3)
    assert (first.away_s, second.away_s, list(away.events), away.snapshot_complete) == (None, None, [], False)
    assert away.away_s is not None
