"""The helper process dies or stops at any step of a build: that build is told, and nothing else suffers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep import frames
from modelkeep.loader.v1 import capacity_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep_loader import helper as service_side
from modelkeep_loader.helper import BuildLimits
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load, release
from support.loaders import Lender, component, lender
from support.smalldisk import small_disk

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
T5 = taxonomy_pb2.MODEL_TYPE_T5_ENCODER
#: Steps of a build, as the service sees them.
STEPS = ("idle", "asked", "built", "accepted")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    for seed in range(2 * 2 * len(STEPS) + 1):
        tinymodels.vae(widths=(32, 64), seed=seed).save_pretrained(models / f"vae-{seed}")
    tinymodels.t5_encoder().save_pretrained(models / "t5")
    async with lender(folder / "data", models, warm_helper=True) as both:
        await both.app.helper.warm()
        yield both


def strike(
    monkeypatch: pytest.MonkeyPatch, loader: Lender, step: str, number: signal.Signals
) -> Callable[[], list[int]]:
    """Send the helper a signal at a step of the next build; what is returned says whom it met."""
    met: list[int] = []

    def hit() -> None:
        if not met:
            met.append(loader.app.helper.pid)
            os.kill(met[0], number)
            if number is signal.SIGKILL:
                os.waitid(os.P_PID, met[0], os.WEXITED | os.WNOWAIT)

    send, receive, accept = frames.send_frame, frames.receive_frame, service_side._accept

    def sending(link: Any, message: Any, descriptors: Any = ()) -> None:
        send(link, message, descriptors)
        if step == "asked" and "build" in message:
            hit()

    def receiving(link: Any) -> Any:
        frame = receive(link)
        if step == "built" and frame is not None and "built" in frame[0]:
            hit()
        return frame

    def accepting(*arguments: Any) -> Any:
        built = accept(*arguments)
        if step == "accepted":
            hit()
        return built

    monkeypatch.setattr(frames, "send_frame", sending)
    monkeypatch.setattr(frames, "receive_frame", receiving)
    monkeypatch.setattr(service_side, "_accept", accepting)
    if step == "idle":
        hit()
    return lambda: met


async def lent_bytes(loader: Lender) -> tuple[int, int]:
    """What the tier says it uses, and what its residents come to."""
    (ram, *_) = (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers
    residents = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    assert ram.zombie_bytes == 0
    return ram.used_bytes, sum(r.size_bytes for r in residents if not r.HasField("error"))


def memfds() -> int:
    """Open descriptors of lent memory in this process, which is the service's too."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += "memfd:modelkeep" in os.readlink(entry)
        except OSError:
            continue
    return found


@pytest.mark.long  # what is stopped is given seconds to end
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("step", STEPS)
async def test_a_helper_that_dies_or_stops_costs_at_most_the_build_that_it_was_at(
    loader: Lender, monkeypatch: pytest.MonkeyPatch, step: str, number: signal.Signals
) -> None:
    place = 2 * STEPS.index(step) + (number is signal.SIGSTOP)
    one, two = [
        await loader.register(loader.models / f"vae-{2 * place + which}", type=VAE) for which in (0, 1)
    ]
    await loader.app.helper.warm()  # the case before may have ended it
    before = memfds()
    with monkeypatch.context() as meanwhile:
        if number is signal.SIGSTOP:
            # Long enough for a build, too short for what never answers.
            meanwhile.setattr(loader.app.helper, "_limits", BuildLimits(6.0))
        met = strike(meanwhile, loader, step, number)
        is_lost = step == "asked" or (step == "idle" and number is signal.SIGSTOP)
        if is_lost:
            with refused("RAM_EXHAUSTED" if number is signal.SIGKILL else "INVALID_MODEL") as error:
                await acquire(loader, component(one, "", "bfloat16"))
            assert ("was killed while" if number is signal.SIGKILL else "did not end within") in error.message
        else:
            grant = await acquire(loader, component(one, "", "bfloat16"))
            await release(loader, grant)
        assert len(met()) == 1
        # What comes after a success meets the helper as it was left.
        if number is signal.SIGSTOP and not is_lost:
            with refused("INVALID_MODEL") as error:
                await acquire(loader, component(two, "", "bfloat16"))
            assert "did not end within" in error.message
    await load(loader, component(two if is_lost or number is signal.SIGKILL else one, "", "float16"))
    assert loader.app.helper.pid not in (0, *met())
    assert (await lent_bytes(loader))[0] == (await lent_bytes(loader))[1]
    assert memfds() - before == (1 if is_lost else 2)


@pytest.mark.long
async def test_a_build_that_was_cooled_down_succeeds_once_that_is_over(
    loader: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await loader.register(loader.models / f"vae-{4 * len(STEPS)}", type=VAE)
    await loader.app.helper.warm()
    with monkeypatch.context() as meanwhile:
        strike(meanwhile, loader, "asked", signal.SIGKILL)
        with refused("RAM_EXHAUSTED"):
            await acquire(loader, component(key, "", "float32"))
    pid = loader.app.helper.pid
    with refused("RAM_EXHAUSTED") as error:
        await acquire(loader, component(key, "", "float32"))
    assert "was killed while" in error.message  # and why, though nothing was tried
    assert loader.app.helper.pid == pid
    for _ in range(100):
        try:
            await release(loader, await acquire(loader, component(key, "", "float32")))
            return
        except Exception:
            await asyncio.sleep(0.1)
    raise AssertionError("it is cooled down for ever")


@pytest.mark.long  # a helper that starts imports for seconds, and here two do
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_temporary_folder_that_fills_up_is_told_as_a_full_disk(
    loader: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await loader.register(loader.models / "t5", type=T5)
    with small_disk(1) as disk:
        with monkeypatch.context() as meanwhile:
            meanwhile.setenv("TMPDIR", str(disk))
            await asyncio.to_thread(loader.app.helper._stop)  # the next one has it
            await load(loader, component(key, "", "float32"))
            (disk / "filling").write_bytes(bytes(1 << 20))
            with refused("DISK_FULL") as error:
                await acquire(loader, component(key, "", "float16"))
            assert str(disk) in error.message
            assert [path.name for path in disk.iterdir()] == ["filling"]
        (disk / "filling").unlink()
        await asyncio.sleep(2.1)  # it was cooled down
        await load(loader, component(key, "", "float16"))
        await asyncio.to_thread(loader.app.helper._stop)
