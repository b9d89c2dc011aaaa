"""A loader is killed, and the next one at the same place goes on: real processes, keepers and kills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from modelkeep.loader.v1 import (
    hold_pb2,
    load_pb2,
    pins_pb2,
    resident_pb2,
)
from support.lending import acquire, hold, leases, load, release
from support.loaders import component
from support.successions import VOCABULARY, Succession, close_all, contents, succession, taken_up

pytestmark = pytest.mark.timeout(300)

LONG = Duration(seconds=3600)


@pytest.fixture
async def loaders(data_dir: Path) -> AsyncIterator[Succession]:
    async with succession(data_dir) as made:
        yield made


def bytes_read(pid: int) -> int:
    """What a process has read from files so far."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


async def test_the_next_loader_lends_what_the_killed_one_had_without_reading_it_again(
    loaders: Succession,
) -> None:
    loader = loaders.both
    first, second, third, _ = (component(key, "tokenizer") for key in loaders.keys)
    await load(loader, first)
    await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[third], load=True))
    call, _, held = await hold(loader, hold_pb2.HoldModelRequest(components=[first, second], label="worker"))
    open_ones: list[Any] = [call]
    before = await contents(held, open_ones, 2)
    timed = await acquire(loader, second)
    there = await loaders.residents()
    there_bytes = await loaders.counted()
    assert loaders.memory() == there_bytes > 3 * VOCABULARY

    await loaders.process.stop(signal.SIGKILL)
    await loaders.until(there_bytes)
    shutil.rmtree(loader.models / "m1")
    await loaders.start()

    after = await loaders.residents()
    for key, resident in there.items():
        for name in ("id", "load_time", "size_bytes", "components", "display_name"):
            assert getattr(after[key], name) == getattr(resident, name), name
    assert (await loaders.ram()).pinned_bytes == there[third.key].size_bytes
    (one, two) = await leases(loader)
    states = resident_pb2.LeaseState
    assert (one.id, one.state, one.last_change) == (
        held.lease.id,
        states.LEASE_STATE_DETACHED,
        resident_pb2.LEASE_CHANGE_READOPTED,
    )
    assert (one.holder.pid, one.holder.label) == (os.getpid(), "worker")
    assert (two.id, two.state, two.expire_time) == (
        timed.lease.id,
        states.LEASE_STATE_ACTIVE,
        timed.lease.expire_time,
    )

    # Also on files that have gone since.
    again, grant = await taken_up(loaders, held, first, second)
    close_all(open_ones)
    open_ones.append(again)
    assert await contents(grant, open_ones, 2) == before
    assert [lease.state for lease in await leases(loader)] == [states.LEASE_STATE_ACTIVE] * 2
    # Whoever asks anew gets it at once: its file is not even read to know what it is.
    pid = next(
        pid for pid in loaders.pids() if "modelkeep_loader" in Path(f"/proc/{pid}/cmdline").read_text()
    )
    read = bytes_read(pid)
    new = await acquire(loader, first)
    assert bytes_read(pid) - read < VOCABULARY // 4
    assert ((await loaders.ram()).hit_count, (await loaders.ram()).miss_count) == (1, 0)
    assert loaders.memory() == await loaders.counted()
    for done in (grant, timed, new):
        await release(loader, done)
    close_all(open_ones)
    await loader.stub.UnpinModel(pins_pb2.UnpinModelRequest(components=[third]))
    await loader.stub.EvictModel(load_pb2.EvictModelRequest())
    await loaders.until(0)


@pytest.mark.long
async def test_leases_of_the_dead_and_of_those_who_do_not_come_back_end(loaders: Succession) -> None:
    loader = loaders.both
    first, second, *_ = (component(key, "tokenizer") for key in loaders.keys)
    sleeper = await asyncio.create_subprocess_exec("sleep", "600")
    dead = await acquire(loader, first, pid=sleeper.pid)
    call, _, held = await hold(loader, hold_pb2.HoldModelRequest(components=[second], pid=sleeper.pid))
    lost, _, waiting = await hold(loader, hold_pb2.HoldModelRequest(components=[second]))
    await loaders.process.stop(signal.SIGKILL)
    sleeper.kill()
    await sleeper.wait()
    await loaders.start()
    # A ttl binds the one all the same.
    assert {lease.id for lease in await leases(loader)} == {dead.lease.id, waiting.lease.id}
    with pytest.raises(grpc.aio.AioRpcError, match="holder's process is dead"):
        await taken_up(loaders, held, second)
    for _ in range(150):
        if len(await leases(loader)) == 1:
            break
        await asyncio.sleep(0.1)
    with pytest.raises(grpc.aio.AioRpcError, match="nobody took it up"):
        await taken_up(loaders, waiting, second)
    for open_call in (call, lost):
        open_call.cancel()


@pytest.mark.long
async def test_a_clean_stop_that_keeps_is_as_if_it_had_been_killed(data_dir: Path) -> None:
    async with succession(data_dir, "--keep-on-stop", "--detach-grace-s=0") as loaders:
        loader = loaders.both
        first, second, *_ = (component(key, "tokenizer") for key in loaders.keys)
        await load(loader, first)
        call, _, held = await hold(loader, hold_pb2.HoldModelRequest(components=[second]))
        open_ones: list[Any] = [call]
        before = await contents(held, open_ones)
        await loaders.process.stop(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            await call.read()
        await loaders.start()
        assert len(await loaders.residents()) == 2
        (lease,) = await leases(loader)
        assert (lease.id, lease.state) == (held.lease.id, resident_pb2.LEASE_STATE_DETACHED)
        close_all(open_ones)
        call, again = await taken_up(loaders, held, second)
        open_ones.append(call)
        assert await contents(again, open_ones) == before
        await release(loader, again)
        close_all(open_ones)


@pytest.mark.long
async def test_files_that_were_delivered_by_path_are_made_anew_when_the_lease_is_taken_up(
    data_dir: Path,
) -> None:
    async with succession(data_dir, f"--path-dir={data_dir / 'paths'}") as loaders:
        wanted = component(loaders.keys[0], "tokenizer")
        by_path: dict[str, Any] = {"components": [wanted], "delivery": hold_pb2.DELIVERY_PATH}
        call, _, held = await hold(loaders.both, hold_pb2.HoldModelRequest(**by_path))
        (path,) = held.paths
        before = Path(path).read_bytes()
        await loaders.again()
        assert not Path(path).exists()
        request = hold_pb2.HoldModelRequest(**by_path, lease_id=held.lease.id, lease_secret=held.lease_secret)
        second, _, again = await hold(loaders.both, request)
        assert Path(again.paths[0]).read_bytes() == before
        close_all([call, second])


class Crowd:
    """Clients who do what comes into their heads, and what they have been told."""

    def __init__(self, loaders: Succession, dice: random.Random) -> None:
        self.loaders, self.dice = loaders, dice
        #: What was granted, and whose release nobody has asked for.
        self.held: dict[str, tuple[hold_pb2.Grant, resident_pb2.ComponentRef]] = {}
        self.open_ones: list[Any] = []
        #: Of each model, what was lent of it first.
        self.lent: dict[str, bytes] = {}

    async def act(self) -> None:
        """Until the loader is killed."""
        with contextlib.suppress(grpc.aio.AioRpcError, OSError, asyncio.CancelledError):
            while True:
                await self.step()

    async def step(self) -> None:
        loader, dice = self.loaders.both, self.dice
        wanted = component(dice.choice(self.loaders.keys), "tokenizer")
        what = dice.choice(("load", "acquire", "hold", "fetch", "release", "release", "evict"))
        if what == "load":
            await load(loader, wanted)
        elif what == "acquire":
            grant = await acquire(loader, wanted, ttl=LONG)
            self.held[grant.lease.id] = grant, wanted
        elif what == "hold":
            call, _, grant = await hold(loader, hold_pb2.HoldModelRequest(components=[wanted]))
            self.open_ones.append(call)
            self.held[grant.lease.id] = grant, wanted
        elif what == "fetch":
            grant = await acquire(loader, wanted, ttl=LONG)
            self.held[grant.lease.id] = grant, wanted
            await self.read(grant, wanted)
        elif what == "release" and self.held:
            name = dice.choice(list(self.held))
            grant, _ = self.held.pop(name)
            await release(loader, grant)
        elif what == "evict":
            with contextlib.suppress(grpc.aio.AioRpcError):
                await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=wanted.key), timeout=5)

    async def read(self, grant: hold_pb2.Grant, wanted: resident_pb2.ComponentRef) -> None:
        """Get what is lent: the same as ever."""
        (lent,) = await contents(grant, self.open_ones)
        assert self.lent.setdefault(wanted.key, lent) == lent

    async def come_back(self, name: str) -> None:
        """Take a lease up."""
        grant, wanted = self.held[name]
        call, again = await taken_up(self.loaders, grant, wanted)
        self.open_ones.append(call)
        assert again.lease.state == resident_pb2.LEASE_STATE_ACTIVE
        await self.read(again, wanted)


@pytest.fixture
async def patient(data_dir: Path) -> AsyncIterator[Succession]:
    """Loaders that wait longer for holders than a round of kills takes."""
    async with succession(data_dir, "--readopt-grace-s=300") as made:
        yield made


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
async def test_whenever_the_kill_comes_no_lease_is_lost_and_no_byte_leaks(
    patient: Succession, seed: int
) -> None:
    loaders = patient
    dice = random.Random(int(os.environ.get("MODELKEEP_KILL_SEED", "0")) * 1000 + seed)
    loader = loaders.both
    crowd = Crowd(loaders, dice)
    await load(loader, component(loaders.keys[0], "tokenizer"))
    for _ in range(8):
        acting = [asyncio.create_task(crowd.act()) for _ in range(3)]
        await asyncio.sleep(dice.uniform(0.0, 0.6))
        await loaders.again()
        for task in acting:
            task.cancel()
        for end in await asyncio.gather(*acting, return_exceptions=True):
            assert not isinstance(end, AssertionError), end
        alive = {lease.id for lease in await leases(loader)}
        assert crowd.held.keys() <= alive, "whoever has been told of a lease has it"
        await loaders.until(await loaders.counted())
        # Half of the holders come back, the others take their time.
        for name in list(crowd.held)[::2]:
            await crowd.come_back(name)
    close_all(crowd.open_ones)
    for grant, _ in crowd.held.values():
        with contextlib.suppress(grpc.aio.AioRpcError):  # it was not taken up in time
            await release(loader, grant)
