"""A DownloadService that is killed goes on: no byte wrong, few fetched twice; and no secret survives it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep_download.engine import files, piece_map
from support.downloads import DownloadProcess, alter_job, download_service, stored_job
from support.httpserver import Hang, HttpServer, Resource, pattern
from support.waiting import until

COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
PAUSED = download_pb2.DOWNLOAD_STATE_PAUSED


@pytest.fixture
def service(data_dir: Path) -> Iterator[DownloadProcess]:
    # One connection, so that the offset of a request tells what there is.
    process = DownloadProcess(
        data_dir, checkpoint_bytes=1 << 20, checkpoint_s=0.2, max_connections_per_file=1
    )
    yield process
    process.kill()


def durable_bytes(process: DownloadProcess, job_id: int) -> int:
    job = stored_job(process.data_dir / "download" / "download.db", job_id)
    have = piece_map.kept(Path(job["staging"]) / files.PARTIAL, job["object_id"])
    return have.size if have is not None else 0


@pytest.mark.timeout(60)
@pytest.mark.may_block  # starts processes and reads files
async def test_killed_in_the_middle_it_goes_on_from_the_last_checkpoint_with_a_range_request(
    service: DownloadProcess, web: HttpServer
) -> None:
    body = pattern(8 << 20, seed=5)
    # Each answer but the last stops in the middle, so that the kill always comes before the end.
    url = web.put("/m.bin", Resource(body, faults=[Hang(3 << 20), Hang(2 << 20)]))
    service.start()
    async with service.client() as client:
        job = await client.create(url, expected_sha256=hashlib.sha256(body).hexdigest())
        await client.until(job, lambda now: now.progress.bytes_done == 3 << 20)
        await until(lambda: durable_bytes(service, job.id) >= 2 << 20)
    service.kill()
    kept = [durable_bytes(service, job.id)]
    service.start()
    async with service.client() as client:
        await client.until(job, lambda now: now.progress.bytes_done == kept[0] + (2 << 20))
        await until(lambda: durable_bytes(service, job.id) >= kept[0] + (1 << 20))
    service.kill()
    kept.append(durable_bytes(service, job.id))
    service.start()
    async with service.client() as client:
        done = await client.ended(job)
        assert (done.state, done.verified, done.restarts) == (COMPLETED, True, 0), done
        assert Path(done.path).read_bytes() == body
    requests = web.requests_of("/m.bin")
    assert [r.range for r in requests] == [None, *(f"bytes={offset}-" for offset in kept)]
    assert [r.status for r in requests] == [200, 206, 206]
    twice = 0
    for before, after in itertools.pairwise(requests):
        again = before.offset + before.bytes_sent - after.offset
        assert 0 <= again <= 1 << 20  # one checkpoint interval
        twice += again
    assert web.bytes_served("/m.bin") == len(body) + twice
    assert not list((service.data_dir / "downloads" / ".staging").iterdir())


@pytest.mark.timeout(60)
@pytest.mark.may_block  # starts processes and reads files
async def test_an_object_that_changed_while_the_service_was_dead_is_never_mixed(
    service: DownloadProcess, web: HttpServer
) -> None:
    old, new = pattern(4 << 20, seed=6), pattern(4 << 20, seed=7)
    url = web.put("/m.bin", Resource(old, faults=[Hang(2 << 20)]))
    service.start()
    async with service.client() as client:
        job = await client.create(url)
        await client.until(job, lambda now: now.progress.bytes_done == 2 << 20)
        await until(lambda: durable_bytes(service, job.id) >= 1 << 20)
    service.kill()
    web.put("/m.bin", Resource(new, etag='"v2"'))
    service.start()
    async with service.client() as client:
        done = await client.ended(job)
    assert (done.state, done.restarts) == (COMPLETED, 1)
    assert Path(done.path).read_bytes() == new
    assert service.stop() == 0


@pytest.mark.may_block  # looks into files and the database
async def test_a_file_renamed_but_not_recorded_is_recognised(data_dir: Path, web: HttpServer) -> None:
    body = pattern(100_000)
    async with download_service(data_dir) as client:
        job = await client.run(web.put("/m.bin", Resource(body)))
        again = await client.create(web.url("/m.bin"), filename="n.bin", start=False)
    path = Path(job.path)
    inode = path.stat()
    database = data_dir / "download" / "download.db"
    # As a kill between the rename and the record leaves it.
    alter_job(
        database,
        job.id,
        state="running",
        stage="verifying",
        delivered_path="",
        end_time=None,
        staged_inode=(inode.st_dev, inode.st_ino),
    )
    async with download_service(data_dir) as client:
        found = await client.get(job)
        assert (found.state, found.path, found.sha256) == (COMPLETED, str(path), job.sha256)
        assert (await client.get(again)).state == download_pb2.DOWNLOAD_STATE_IDLE
    assert len(web.requests) == 1
    assert path.read_bytes() == body


async def test_a_drained_service_keeps_every_byte_and_goes_on(data_dir: Path, web: HttpServer) -> None:
    body = pattern(1_000_000)
    async with download_service(data_dir) as client:
        job = await client.create(web.put("/m.bin", Resource(body, rate=1_000_000)))
        await client.until(job, lambda now: now.progress.bytes_done > 200_000)
    web.resources["/m.bin"].rate = None
    async with download_service(data_dir) as client:
        done = await client.ended(job)
    assert done.state == COMPLETED
    assert Path(done.path).read_bytes() == body
    assert web.requests[1].offset > 200_000


@pytest.mark.timeout(60)
@pytest.mark.may_block  # starts processes and reads files
async def test_secrets_live_in_memory_only_and_a_restart_asks_for_them(
    service: DownloadProcess, web: HttpServer
) -> None:
    body = pattern(3 << 20)
    secrets = {
        "bearer": "tok-5f2c1e",
        "query": "qry-77aa01",
        "password": "pwd-90bc3d",
        "signature": "sig-4e4e4e",
    }
    other = web.url(f"/storage.bin?X-Amz-Signature={secrets['signature']}", host="localhost")
    web.put("/storage.bin", Resource(body, faults=[Hang(2 << 20)]))
    web.put("/bearer.bin", Resource(body, authorization=f"Bearer {secrets['bearer']}", redirect=other))
    web.put("/query.bin", Resource(body, faults=[Hang(2 << 20), Hang(2 << 20)]))
    service.start()
    seen = ""
    query_url = web.url(f"/query.bin?name=1&token={secrets['query']}")
    user_url = web.url("/query.bin").replace("http://", f"http://user:{secrets['password']}@")
    async with service.client() as client:
        bearer = await client.create(web.url("/bearer.bin"), access_token=secrets["bearer"])
        query = await client.create(query_url, filename="query.bin")
        user = await client.create(user_url, filename="user.bin")
        for job in (bearer, query, user):
            seen += str(await client.until(job, lambda now: now.progress.bytes_done == 2 << 20))
        for request in web.requests_of("/query.bin"):
            given = request.path + request.headers.get("authorization", "")
            assert secrets["query"] in given or given.endswith("Basic dXNlcjpwd2QtOTBiYzNk")
        stream = client.stub.WatchDownloads(pb.WatchDownloadsRequest())
        async for frame in stream:
            seen += str(frame)
            if frame.snapshot_complete:
                break
        stream.cancel()
    service.kill()
    service.start()
    async with service.client() as client:
        kept = (await client.get(bearer)).progress.bytes_done
        for job, needs in ((bearer, "access_token"), (query, "source_url"), (user, "source_url")):
            now = await client.get(job)
            seen += str(now)
            assert (now.state, now.error.reason) == (PAUSED, "TOKEN_REQUIRED")
            assert now.error.metadata["needs"] == needs
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
            assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert query.source.url == web.url("/query.bin?name=1&token=REDACTED")
        assert user.source.url == web.url("/query.bin")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.stub.StartDownload(
                pb.StartDownloadRequest(id=query.id, source_url=web.url("/other?token=1"))
            )
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for again in (
            pb.StartDownloadRequest(id=bearer.id, access_token=secrets["bearer"]),
            pb.StartDownloadRequest(id=query.id, source_url=query_url),
            pb.StartDownloadRequest(id=user.id, source_url=user_url),
        ):
            await client.stub.StartDownload(again)
        for job in (bearer, query, user):
            done = await client.ended(job)
            seen += str(done)
            assert (done.state, done.sha256) == (COMPLETED, hashlib.sha256(body).hexdigest())
        # The kill may have cost what was not yet durable: on a busy machine all of it.
        assert {r.status for r in web.requests_of("/storage.bin")[1:]} == {206 if kept else 200}
        await asyncio.sleep(0.1)  # the log is written behind
        files = [p for p in service.data_dir.rglob("*") if p.is_file() and "downloads" not in p.parts]
        assert {"download.db", "download.db-wal", "download.log"} <= {p.name for p in files}
        for secret in secrets.values():
            assert secret not in seen
            for file in files:
                assert secret.encode() not in file.read_bytes(), (secret, file)
