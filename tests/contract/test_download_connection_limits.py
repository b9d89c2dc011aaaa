"""How many connections files, hosts and all downloads may have: set while they run, and kept."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2, limits_pb2
from support.downloads import DownloadClient, download_service
from support.failures import fails
from support.httpserver import HttpServer, Resource, pattern
from support.waiting import until

MIB = 1 << 20
BODY = pattern(40 * MIB)
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


async def set_limits(client: DownloadClient, **fields: Any) -> limits_pb2.Limits:
    answer: limits_pb2.SetLimitsResponse = await client.stub.SetLimits(limits_pb2.SetLimitsRequest(**fields))
    return answer.limits


def numbers(limits: limits_pb2.Limits) -> tuple[int, int, int]:
    return limits.max_connections_per_file, limits.max_connections_per_host, limits.max_connections


def slow(body: bytes = BODY) -> Resource:
    """So slow that more connections help, whatever else the machine does."""
    return Resource(body, etag='"v1"', rate=MIB)


async def stays_below(count: int, active: Callable[[], int]) -> None:
    """Wait until there are no more for a while: between two requests of one connection there are fewer."""
    seen = deque([count + 1], maxlen=25)

    def look() -> bool:
        seen.append(active())
        return len(seen) == 25 and max(seen) <= count

    await until(look)


async def test_a_download_that_runs_takes_more_connections_and_gives_them_up_again(
    data_dir: Path, web: HttpServer
) -> None:
    url = web.put("/m.bin", slow())
    async with download_service(data_dir, max_connections_per_file=1) as client:
        job = await client.create(url, expected_sha256=hashlib.sha256(BODY).hexdigest())
        await client.until(job, lambda now: now.progress.bytes_done > MIB)
        assert len(web.requests_of("/m.bin")) == 1
        await set_limits(client, max_connections_per_file=6)
        await until(lambda: web.active("/m.bin") > 3)
        await set_limits(client, max_connections_per_file=2)
        await stays_below(2, lambda: web.active("/m.bin"))
        await set_limits(client, max_connections_per_file=8)
        await until(lambda: web.active("/m.bin") > 3)
        job = await client.ended(job, timeout=60)
        assert (job.state, job.verified, job.attempt) == (COMPLETED, True, 1)
    assert Path(job.path).read_bytes() == BODY


@pytest.mark.parametrize("limit", ["max_connections_per_host", "max_connections"])
async def test_what_a_host_and_all_may_have_is_lowered_for_those_that_run(
    data_dir: Path, web: HttpServer, limit: str
) -> None:
    urls = [web.put(f"/{name}.bin", slow()) for name in ("a", "b")]
    async with download_service(data_dir) as client:
        jobs = [await client.create(url) for url in urls]

        def active() -> int:
            return web.active("/a.bin") + web.active("/b.bin")

        await until(lambda: active() > 6)
        await set_limits(client, **{limit: 2})
        await stays_below(4, active)  # two beside the first of each
        await set_limits(client, **{limit: 0})
        for job in jobs:
            assert (await client.ended(job, timeout=60)).state == COMPLETED


async def test_numbers_of_connections_are_kept_and_0_is_what_the_settings_say(data_dir: Path) -> None:
    configured: dict[str, Any] = {
        "max_connections_per_file": 7,
        "max_connections_per_host": 8,
        "max_connections": 9,
    }
    async with download_service(data_dir, **configured) as client:
        assert numbers(await set_limits(client, max_connections_per_host=3)) == (7, 3, 9)
        assert numbers(await set_limits(client, max_connections_per_file=2, max_connections=4)) == (2, 3, 4)
    async with download_service(data_dir, **configured) as client:
        answer: limits_pb2.GetLimitsResponse = await client.stub.GetLimits(limits_pb2.GetLimitsRequest())
        assert numbers(answer.limits) == (2, 3, 4)
        assert numbers(await set_limits(client, max_connections_per_file=0)) == (7, 3, 4)
        assert numbers(await set_limits(client, reset=True)) == (7, 8, 9)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_connections_per_file": 65},
        {"max_connections_per_host": 257},
        {"max_connections": 1025},
        {"max_connections": -1},
    ],
)
async def test_numbers_out_of_range_are_refused(data_dir: Path, fields: dict[str, int]) -> None:
    async with download_service(data_dir) as client:
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
            await set_limits(client, **fields)
