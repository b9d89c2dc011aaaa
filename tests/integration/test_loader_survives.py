"""Loader, keeper and workers as processes of their own: the loader is killed, and the workers go on."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep import sealed
from modelkeep.loader.v1 import resident_pb2, residents_pb2
from modelkeep.worker._fetch import fetch_descriptors
from support.lending import acquire, leases, no_leases, release
from support.loaders import component
from support.survivors import Survivors, survivors
from support.workers import WorkerError, shared_workers

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

#: Seconds until all leases are held again. It is two at most on a machine that has nothing else to do, which
#: `make bench ARGS=attach` measures.
SOON_S = 20.0


@pytest.fixture
async def house(data_dir: Path) -> AsyncIterator[Survivors]:
    async with survivors(data_dir) as made:
        yield made


async def test_three_workers_compute_through_a_kill_and_their_leases_go_on(house: Survivors) -> None:
    await house.start_workers(3)
    before = [await worker.do("standing") for worker in house.workers]
    await house.kill()
    shutil.move(house.lender.models / "vae", house.data_dir.parent / "elsewhere")  # nothing is read again
    for worker, was in zip(house.workers, before, strict=True):
        assert (await house.standing(worker, lost=""))["memory"] == was["memory"]
        await house.rounds(worker, 2)
        assert (await worker.do("standing"))["away"]
    await house.process.start()
    await house.held_by(*house.workers, within_s=SOON_S)
    for worker, was in zip(house.workers, before, strict=True):
        assert await worker.do("standing") == {**was, "reattached": 1}
        await house.rounds(worker, 1)
    assert {lease.id for lease in await leases(house.lender)} == {was["lease"] for was in before}
    (resident,) = await residents(house)
    assert resident.lease_count == 3
    # The one who leaves is heard of, as ever.
    await house.workers[0].do("leave")
    await house.held_by(*house.workers[1:], within_s=SOON_S)


async def test_a_worker_that_is_killed_in_the_gap_is_not_waited_for(house: Survivors) -> None:
    await house.start_workers(2)
    dead, alive = house.workers
    await house.kill()
    dead.kill()
    await house.process.start()
    # Far sooner than the time in which its lease could be taken up.
    await house.held_by(alive, within_s=SOON_S)
    await house.rounds(alive, 1)


async def test_a_worker_that_is_stopped_over_the_gap_gets_its_lease_or_one_on_the_same_memory(
    data_dir: Path,
) -> None:
    async with survivors(data_dir, "--readopt-grace-s=2") as house:
        await house.start_workers(2)
        stopped, other = house.workers
        before = await stopped.do("standing")
        os.kill(stopped.pid, signal.SIGSTOP)
        await house.kill()
        await house.process.start()
        await house.held_by(other, within_s=SOON_S)  # that of the stopped one has run out
        os.kill(stopped.pid, signal.SIGCONT)
        await house.held_by(stopped, other, within_s=SOON_S)
        after = await house.standing(stopped, reattached=1)
        assert after["lease"] != before["lease"]
        assert (after["memory"], after["lost"]) == (before["memory"], "")
        await house.rounds(stopped, 1)


async def test_a_loader_that_is_killed_while_it_takes_over_leaves_all_to_the_next_one(
    house: Survivors,
) -> None:
    await house.start_workers(3)
    before = {(await worker.do("standing"))["lease"] for worker in house.workers}
    moments = random.Random(os.environ.get("MODELKEEP_KILL_SEED", "3"))
    await house.kill()
    for _ in range(4):
        starting = asyncio.ensure_future(house.process.start())
        await asyncio.sleep(moments.uniform(0.1, 3.0))
        await house.kill()
        starting.cancel()
        await asyncio.wait([starting])
    await house.process.start()
    await house.held_by(*house.workers, within_s=SOON_S)
    assert {lease.id for lease in await leases(house.lender)} == before
    for worker in house.workers:
        await house.rounds(worker, 1)


async def test_a_killed_keeper_is_replaced_and_the_next_one_has_all_that_there_is(house: Survivors) -> None:
    await house.start_workers(2)
    before = {(await worker.do("standing"))["lease"] for worker in house.workers}
    first = await house.kill_keeper()
    while not (found := house.keepers()):  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.02)
    assert found != [first]
    later = await acquire(house.lender, component(house.key, "", "bfloat16"))  # is kept, too
    await asyncio.sleep(1.0)  # for all to be said to it
    await house.kill()
    await house.process.start()
    assert {lease.id for lease in await leases(house.lender)} == before | {later.lease.id}
    await release(house.lender, later)
    await house.held_by(*house.workers, within_s=SOON_S)


async def test_with_loader_and_keeper_dead_the_memory_is_the_workers_and_then_nobodys(
    house: Survivors,
) -> None:
    await house.start_workers(2)
    before = await house.workers[0].do("standing")
    grant = await acquire(house.lender, component(house.key, "", "bfloat16"))
    connection, (memory,) = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
    house.process.send(signal.SIGSTOP)  # or it would start another keeper
    await house.kill_keeper()
    await house.kill()
    connection.close()
    for worker in house.workers:
        await house.rounds(worker, 2)
    await house.process.start()
    for worker in house.workers:
        assert "No lease" in await house.lost(worker)
        await house.rounds(worker, 1)
    assert await leases(house.lender) == []
    assert await residents(house) == []
    # What comes next is loaded anew, and computes the same.
    (fresh,) = await house.start_workers(1)
    assert (await fresh.do("standing"))["memory"] != before["memory"]
    await house.held_by(fresh, within_s=SOON_S)
    assert sealed.in_use_elsewhere(memory)
    for worker in house.workers[:2]:
        worker.kill()
    async with asyncio.timeout(SOON_S):
        while sealed.in_use_elsewhere(memory):  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.02)
    os.close(memory)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_clean_stop_keeps_leases_if_it_shall_and_else_leaves_nothing(
    data_dir: Path, keeps: bool
) -> None:
    async with survivors(data_dir, *(["--keep-on-stop"] if keeps else [])) as house:
        await house.start_workers(2)
        assert await house.process.stop(signal.SIGTERM) == 0
        assert len(house.keepers()) == int(keeps)
        for worker in house.workers:
            await house.rounds(worker, 1)
        await house.process.start()
        if keeps:
            await house.held_by(*house.workers, within_s=SOON_S)
            return
        for worker in house.workers:
            assert "No lease" in await house.lost(worker)
        assert await residents(house) == []


async def test_weights_that_came_by_path_stay_and_their_lease_is_given_up(data_dir: Path) -> None:
    place = data_dir.parent / "paths"
    async with survivors(data_dir, f"--path-dir={place}") as house:
        (worker,) = await house.start_workers(1, path_dir=str(place))
        await house.kill()
        await house.process.start()
        assert "in other memory now" in await house.lost(worker)
        await no_leases(house.lender)
        await house.rounds(worker, 1)


@pytest.mark.parametrize("step", ["asked", "granted", "fetched", "mapped"])
async def test_a_lease_that_nobody_takes_up_ends_with_its_time_whatever_step_its_holder_had_reached(
    data_dir: Path, step: str
) -> None:
    async with survivors(data_dir, "--readopt-grace-s=5") as house:
        worker = await shared_workers().new()
        house.workers.append(worker)
        told = await worker.do(
            "go_to", step=step, address=house.process.address, key=house.key, precision="bfloat16"
        )
        await house.kill()
        await house.process.start()
        found = await leases(house.lender)
        assert [lease.id for lease in found] == ([told["lease"]] if told["lease"] else [])
        assert all(lease.state == resident_pb2.LEASE_STATE_DETACHED for lease in found)
        await no_leases(house.lender, SOON_S)
        if step == "mapped":
            assert await worker.do("works") > 0


async def test_at_whatever_moment_of_a_hold_the_loader_is_killed_who_holds_it_goes_on_and_nobody_else(
    data_dir: Path,
) -> None:
    moments = random.Random(os.environ.get("MODELKEEP_KILL_SEED", "3"))
    share = min(1.0, max(0.0, float(os.environ.get("MODELKEEP_KILL_SHARE", "1"))))
    async with survivors(data_dir, "--readopt-grace-s=3") as house:
        await house.start_workers(1)  # so that the model is there, and a hold takes a moment
        for _ in range(max(3, round(16 * share))):
            worker = await shared_workers().new()
            asked = asyncio.ensure_future(worker.do("hold_on", address=house.process.address, key=house.key))
            await asyncio.sleep(moments.uniform(0.0, 0.25))
            await house.kill()
            try:
                await asked
                house.workers.append(worker)
            except WorkerError as error:
                if error.args[0] != "UpstreamUnavailableException":
                    raise
                await worker.close()
            await house.process.start()
            await house.held_by(*house.workers, within_s=SOON_S)
        for worker in house.workers[1:]:
            await worker.do("leave")
        await house.held_by(house.workers[0], within_s=SOON_S)
        await house.rounds(house.workers[0], 1)


async def residents(house: Survivors) -> list[resident_pb2.Resident]:
    """What the loader has in memory."""
    answer = await house.lender.stub.ListResidents(residents_pb2.ListResidentsRequest())
    return list(answer.residents)
