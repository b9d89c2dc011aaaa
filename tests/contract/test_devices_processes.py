"""The owner and the copiers as the loader asks them: what they do, and what is left when they are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep import sealed
from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError, DeviceMemory, DeviceOutOfMemoryError
from modelkeep.devices.simulated import Fault
from modelkeep_loader.accelerators import Accelerators
from modelkeep_loader.deviceprocess import Patience
from support.devices import MIB, Faults, weights
from support.waiting import until, wait_until

pytestmark = pytest.mark.timeout(60)

SIZE = 20 * MIB


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults.json")


@contextlib.asynccontextmanager
async def opened(spec: str, patience: Patience | None = None) -> AsyncIterator[Accelerators]:
    found = Accelerators(spec, patience=patience)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


@pytest_asyncio.fixture
async def accelerators(faults: Faults) -> AsyncIterator[Accelerators]:
    """Two of 32 MiB, whose processes must show life each second."""
    async with opened(faults.spec("2x32MiB"), Patience(answer_s=1.0)) as found:
        yield found


def owner_of(accelerators: Accelerators) -> int:
    assert accelerators._owner is not None
    return accelerators._owner.pid


def copier_of(accelerators: Accelerators, device: str = "sim:0") -> int:
    return accelerators._copiers[device].pid


async def fill(accelerators: Accelerators, target: int, source: int, *, keep: str = "") -> list[int]:
    """Fill the whole of an allocation on the first device; what was told of its progress."""
    told: list[int] = []
    await accelerators.fill("sim:0", target, source, SIZE, told.append, keep=keep)
    return told


async def test_what_is_filled_is_read_by_workers_and_back_and_counts_until_the_last_lets_go(
    accelerators: Accelerators,
) -> None:
    free = DeviceMemory(32 * MIB, 32 * MIB)
    source = weights(SIZE)
    target = await accelerators.create("sim:0", SIZE - 1)  # rounded up
    assert await accelerators.memory("sim:0") == DeviceMemory(32 * MIB, 12 * MIB)
    assert await accelerators.memory("sim:1") == free
    told = await fill(accelerators, target, source)
    assert told == sorted(told)
    reader = accelerators.reader(target)
    os.close(target)
    expected = os.pread(source, SIZE, 0)
    assert os.pread(reader, SIZE, 0) == expected
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(reader, b"x", 0)
    back = sealed.create("back", SIZE)
    await accelerators.read_back("sim:0", reader, back, SIZE)
    sealed.seal(back)  # nobody has it mapped any more
    assert os.pread(back, SIZE, 0) == expected
    with pytest.raises(DeviceOutOfMemoryError, match="has 12,582,912 bytes free"):
        await accelerators.create("sim:0", SIZE)
    os.close(reader)
    assert await accelerators.memory("sim:0") == free
    os.close(source)
    os.close(back)


async def test_memory_that_is_kept_for_the_next_copy_is_let_go_of_when_it_is_forgotten(
    accelerators: Accelerators,
) -> None:
    source = weights(SIZE)
    target = await accelerators.create("sim:0", SIZE)
    await fill(accelerators, target, source)
    assert not sealed.in_use_elsewhere(source)
    await fill(accelerators, target, source, keep="weights")
    await fill(accelerators, target, source, keep="weights")
    assert sealed.in_use_elsewhere(source)
    other = weights(SIZE)
    await fill(accelerators, target, other, keep="weights")
    assert not sealed.in_use_elsewhere(source), "another one by this name is another one"
    await accelerators.forget("weights")
    await accelerators.forget("never heard of")
    assert not sealed.in_use_elsewhere(other)
    assert os.pread(target, SIZE, 0) == os.pread(other, SIZE, 0)
    for descriptor in (source, other, target):
        os.close(descriptor)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_copier_that_is_struck_costs_what_it_was_filling_and_no_more(
    accelerators: Accelerators, faults: Faults, blow: signal.Signals
) -> None:
    source, whole = weights(SIZE), weights(2 * MIB)
    target = await accelerators.create("sim:0", SIZE)
    filled = await accelerators.create("sim:0", 2 * MIB)
    await accelerators.fill("sim:0", filled, whole, 2 * MIB, lambda done: None)
    faults.set("sim:0", Fault(slow_s=0.3))
    told: list[int] = []
    filling = asyncio.create_task(accelerators.fill("sim:0", target, source, SIZE, told.append, keep="k"))
    waiting = asyncio.create_task(accelerators.fill("sim:0", filled, whole, 2 * MIB, lambda done: None))
    await until(lambda: told)
    struck = copier_of(accelerators)
    os.kill(struck, blow)
    with pytest.raises(DeviceFailedError, match=r"(by SIGKILL|not answer for 1 s); try again"):
        await filling
    await waiting  # its own copier is the next one
    assert copier_of(accelerators) not in (0, struck)
    assert not sealed.in_use_elsewhere(source)
    assert os.pread(filled, 2 * MIB, 0) == os.pread(whole, 2 * MIB, 0)
    faults.clear()
    await fill(accelerators, target, source)
    assert os.pread(target, SIZE, 0) == os.pread(source, SIZE, 0)
    for descriptor in (source, whole, target, filled):
        os.close(descriptor)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("step", ["with memory that it keeps", "while it reads back"])
async def test_a_copier_may_be_struck_at_any_step(
    accelerators: Accelerators, faults: Faults, step: str, blow: signal.Signals
) -> None:
    source, target = weights(SIZE), await accelerators.create("sim:0", SIZE)
    await fill(accelerators, target, source, keep="weights")
    back = sealed.create("back", SIZE)
    if step == "while it reads back":
        faults.set("sim:0", Fault(slow_s=0.5))
        reading = asyncio.create_task(accelerators.read_back("sim:0", target, back, SIZE))
        await asyncio.sleep(0.2)
        os.kill(copier_of(accelerators), blow)
        with pytest.raises(DeviceFailedError, match="try again"):
            await reading
        faults.clear()
    else:
        os.kill(copier_of(accelerators), blow)
        await accelerators.forget("weights")  # what a dead one kept is gone, and a hung one is ended
    await until(lambda: not sealed.in_use_elsewhere(source))
    await fill(accelerators, target, source, keep="weights")
    await accelerators.read_back("sim:0", target, back, SIZE)
    assert os.pread(back, SIZE, 0) == os.pread(source, SIZE, 0)
    for descriptor in (source, target, back):
        os.close(descriptor)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_owner_that_is_struck_is_started_again_and_what_it_made_lives(
    accelerators: Accelerators, blow: signal.Signals
) -> None:
    source = weights(SIZE)
    target = await accelerators.create("sim:0", SIZE)
    os.kill(owner_of(accelerators), blow)
    if blow is signal.SIGKILL:
        await until(lambda: not owner_of(accelerators))
    else:
        with pytest.raises(DeviceFailedError, match="did not answer for 1 s; try again"):
            await accelerators.create("sim:1", SIZE)
    os.close(await accelerators.create("sim:1", SIZE))
    await fill(accelerators, target, source)
    assert os.pread(target, SIZE, 0) == os.pread(source, SIZE, 0)
    os.close(source)
    os.close(target)


async def test_a_fill_that_nobody_waits_for_any_more_ends_its_copier(
    accelerators: Accelerators, faults: Faults
) -> None:
    source = weights(SIZE)
    target = await accelerators.create("sim:0", SIZE)
    faults.set("sim:0", Fault(slow_s=0.5))
    told: list[int] = []
    filling = asyncio.create_task(accelerators.fill("sim:0", target, source, SIZE, told.append))
    await until(lambda: copier_of(accelerators))
    struck = copier_of(accelerators)
    filling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filling
    os.close(target)
    assert await accelerators.memory("sim:0") == DeviceMemory(32 * MIB, 32 * MIB)
    assert copier_of(accelerators) != struck
    os.close(source)


async def test_a_fill_that_is_given_up_before_its_copier_runs_is_not_done_all_the_same(
    accelerators: Accelerators, faults: Faults
) -> None:
    source, target = weights(SIZE), await accelerators.create("sim:0", SIZE)
    faults.set("sim:0", Fault(slow_s=30.0))
    filling = asyncio.create_task(accelerators.fill("sim:0", target, source, SIZE, lambda done: None))
    await asyncio.sleep(0)
    assert not copier_of(accelerators)
    filling.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await filling
    os.close(source)
    os.close(target)


async def test_a_copier_that_has_nothing_to_do_is_ended() -> None:
    async with opened("sim:1x32MiB", Patience(idle_s=0.05)) as accelerators:
        source, target = weights(SIZE), await accelerators.create("sim:0", SIZE)
        await fill(accelerators, target, source, keep="weights")
        await until(lambda: not sealed.in_use_elsewhere(source))
        assert not copier_of(accelerators)
        assert owner_of(accelerators)
        await fill(accelerators, target, source, keep="weights")
        os.close(source)
        os.close(target)


async def test_a_stranger_takes_room_and_a_device_may_refuse_or_be_lost(
    accelerators: Accelerators, faults: Faults
) -> None:
    source, target = weights(SIZE), await accelerators.create("sim:0", SIZE)
    faults.set("sim:0", Fault(stranger_bytes=8 * MIB))
    assert (await accelerators.memory("sim:0")).free_bytes == 4 * MIB
    with pytest.raises(DeviceOutOfMemoryError):
        await accelerators.create("sim:0", 6 * MIB)
    faults.set("sim:0", Fault(refusal="It is old."))
    with pytest.raises(DeviceGoneError, match="Nothing can be lent on sim:0: It is old"):
        await accelerators.create("sim:0", MIB)
    faults.set("sim:0", Fault(lost="It fell off the bus.", slow_s=0.1))
    for asked in (
        lambda: accelerators.memory("sim:0"),
        lambda: accelerators.create("sim:0", MIB),
        lambda: fill(accelerators, target, source),
    ):
        with pytest.raises(DeviceGoneError, match="fell off the bus"):
            await asked()
    with pytest.raises(DeviceGoneError, match="no device 'sim:7'; there are: sim:0, sim:1"):
        await accelerators.create("sim:7", MIB)
    os.close(await accelerators.create("sim:1", MIB))
    os.close(source)
    os.close(target)


async def test_where_there_is_nothing_nothing_is_started() -> None:
    async with opened("none") as accelerators:
        assert not accelerators.devices
        with pytest.raises(DeviceGoneError, match="there are: none"):
            await accelerators.create("cuda:0", MIB)
    with pytest.raises(ValueError, match="say auto, none or cuda"):
        Accelerators("gpu")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_end_with_the_loader(end: signal.Signals) -> None:
    script = (
        "import asyncio\n"
        "from modelkeep_loader.accelerators import Accelerators\n"
        "async def main():\n"
        "    found = Accelerators('sim:1x32MiB')\n"
        "    await found.open()\n"
        "    print(found._owner.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join(part for part in sys.path if part)
    loader = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with loader:
        assert loader.stdout is not None
        owner = int(loader.stdout.readline())
        loader.send_signal(end)
    wait_until(lambda: not Path(f"/proc/{owner}").exists())
