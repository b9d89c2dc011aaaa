"""A scan one of whose installs is paused: it says so, and goes on when that does."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from modelkeep.install.v1 import control_pb2 as control
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as install_pb
from modelkeep.install.v1 import scan_pb2 as pb
from modelkeep_install.hashing import sampled_hash_of
from support.installs import InstallClient, small_lora
from support.scans import COMPLETED, FAILED, NEW, RUNNING, begin_scan, ended_scan, found

HASHING, PAUSED = install_pb2.INSTALL_STAGE_HASHING, install_pb2.INSTALL_STATE_PAUSED


@pytest.fixture
def held_install(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lets the scan's look at a model through, and keeps the install after it at its hash until it is set."""
    goes_on, seen = threading.Event(), list[Any]()

    def held(*arguments: Any) -> str:
        seen.append(arguments)
        assert len(seen) == 1 or goes_on.wait(20)
        return sampled_hash_of(*arguments)

    monkeypatch.setattr("modelkeep_install.steps.probe.sampled_hash_of", held)
    return goes_on


async def first_install(service: InstallClient) -> install_pb2.Install:
    """The first one that there is."""
    watched = service.stub.WatchInstalls(install_pb.WatchInstallsRequest(), timeout=20)
    async for answer in watched:
        for event in answer.events:
            if event.HasField("put"):
                watched.cancel()
                found: install_pb2.Install = event.put
                return found
    raise AssertionError("the watch ended")


@pytest.mark.parametrize("how", ["resumed", "cancelled"])
async def test_a_scan_tells_which_paused_install_it_waits_for(
    service: InstallClient, source: Path, held_install: threading.Event, how: str
) -> None:
    small_lora(source / "ink.safetensors")
    begun = await begin_scan(service, source)
    job = await first_install(service)
    await service.until(job, lambda now: now.stage == HASHING)
    standing = (await service.stub.GetScan(pb.GetScanRequest(id=begun.id))).scan
    assert (standing.state, standing.HasField("error")) == (RUNNING, False)
    pausing = asyncio.ensure_future(service.stub.PauseInstall(control.PauseInstallRequest(id=job.id)))
    await asyncio.sleep(0.1)
    held_install.set()  # what has begun is done
    assert (await pausing).install.state == PAUSED

    standing = (await service.stub.GetScan(pb.GetScanRequest(id=begun.id))).scan
    assert (standing.state, standing.error.reason) == (RUNNING, "WRONG_STATE")
    assert (standing.error.metadata["id"], standing.error.metadata["state"]) == (str(job.id), "paused")
    assert str(source / "ink.safetensors") in standing.error.message
    [listed] = (await service.stub.ListScans(pb.ListScansRequest())).scans
    assert listed.error == standing.error

    if how == "resumed":
        await service.stub.ResumeInstall(control.ResumeInstallRequest(id=job.id))
    else:
        await service.stub.CancelInstall(install_pb.CancelInstallRequest(id=job.id))
    done = await ended_scan(service, begun)
    assert (done.state, done.HasField("error")) == (COMPLETED, False)
    assert await found(service, done, source) == {"ink.safetensors": NEW if how == "resumed" else FAILED}
