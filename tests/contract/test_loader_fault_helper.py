"""The helper process dies or stops: the build that it was at is told, and nothing else suffers."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep_convert import frames
from modelkeep_loader.helper import BuildLimits
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
#: When the signal comes: to a helper that has nothing to do, or to one that was just asked for a build.
STEPS = ("idle", "asked")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    for seed in range(2 * 2 * len(STEPS)):
        tinymodels.vae(widths=(32, 64), seed=seed).save_pretrained(models / f"vae-{seed}")
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

    send = frames.send_frame

    def sending(link: Any, message: Any, descriptors: Any = ()) -> None:
        send(link, message, descriptors)
        if "build" in message:
            hit()

    monkeypatch.setattr(frames, "send_frame", sending)
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


@pytest.mark.parametrize(
    ("step", "number"),
    [("idle", signal.SIGKILL), ("idle", signal.SIGSTOP), ("asked", signal.SIGKILL)],
)
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
            meanwhile.setattr(loader.app.helper, "_limits", BuildLimits(10.0))
        met = strike(meanwhile, loader, step, number)
        is_lost = step == "asked" or number is signal.SIGSTOP
        if is_lost:
            with refused("RAM_EXHAUSTED" if number is signal.SIGKILL else "INVALID_MODEL") as error:
                await acquire(loader, component(one, "", "bfloat16"))
            assert ("was killed while" if number is signal.SIGKILL else "did not end within") in error.message
        else:
            grant = await acquire(loader, component(one, "", "bfloat16"))
            await release(loader, grant)
        assert len(met()) == 1
    await load(loader, component(two, "", "float16"))
    assert loader.app.helper.pid not in (0, *met())
    assert (await lent_bytes(loader))[0] == (await lent_bytes(loader))[1]
    assert memfds() - before == (1 if is_lost else 2)
