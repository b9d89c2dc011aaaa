"""Killed at random moments of all that it does, DownloadService delivers every byte, and few twice."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from support.downloads import DownloadProcess
from support.httpserver import HttpServer, Resource, pattern
from support.kills import SIZES, stage_for
from support.ledger import Loss
from support.smalldisk import PowerDisk, has_loop

_SEED = int(os.environ.get("MODELKEEP_KILL_SEED") or 20)
_SHARE = min(1.0, max(0.0, float(os.environ.get("MODELKEEP_KILL_SHARE") or 1)))

_on_a_disk = pytest.mark.skipif(
    not has_loop(), reason="needs a disk of its own: root, loop devices and mkfs.ext4"
)
pytestmark = pytest.mark.may_block  # starts processes and reads files


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_kills_cost_no_byte_and_few_are_fetched_twice(data_dir: Path) -> None:
    kills = max(12, int(120 * _SHARE))
    with stage_for(data_dir, _SEED + kills, list(SIZES)) as play:
        await play.run(kills)
    print(play.account)
    none: list[Loss] = []
    assert (play.account.beyond(), play.account.kills) == (none, kills)


@_on_a_disk
@pytest.mark.timeout(60)
async def test_the_power_may_go_just_after_the_first_start() -> None:
    with PowerDisk(64) as disk:
        disk.sync()
        service = DownloadProcess(disk.folder)
        service.start()
        try:
            async with service.client():
                service.signal(signal.SIGSTOP)
                disk.cut_power()
            service.kill()
            disk.power_up()
            service.start()
            async with service.client() as client:
                job = await client.create("http://127.0.0.1:9/m.bin", start=False)
                assert job.state == download_pb2.DOWNLOAD_STATE_IDLE
        finally:
            service.kill()


@_on_a_disk
@pytest.mark.timeout(60)
async def test_the_power_may_go_in_the_middle_and_costs_no_more_than_the_last_second(web: HttpServer) -> None:
    with PowerDisk(512) as disk:
        disk.sync()
        service = DownloadProcess(disk.folder)
        service.boot = disk.folder.with_name("boot")
        service.boot.write_text(f"{uuid.uuid4()}\n")
        url = web.put("/m.bin", Resource(pattern(32 << 20), rate=200_000))
        service.start()
        try:
            async with service.client() as client:
                job = await client.create(url)
                await client.until(job, lambda now: now.progress.bytes_done > 4 << 20, timeout=20)
                await asyncio.sleep(2.5)  # more than a sync takes, and the time until the next one
                service.signal(signal.SIGSTOP)
                disk.cut_power()
            service.kill()
            disk.power_up()
            service.boot.write_text(f"{uuid.uuid4()}\n")
            service.start()
            async with service.client() as client:
                assert (await client.get(job)).progress.bytes_done >= 4 << 20
        finally:
            service.kill()


@pytest.mark.long
@pytest.mark.timeout(900)
@_on_a_disk
async def test_power_cuts_cost_no_byte_and_no_job_that_was_answered() -> None:
    cuts = max(6, int(60 * _SHARE))
    with PowerDisk(4096) as disk, stage_for(disk.folder, _SEED + cuts, ["small", "middle"], disk) as play:
        await play.run(cuts)
    print(play.account)
    assert play.account.kills == cuts
