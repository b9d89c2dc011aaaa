"""A build that hangs or takes more memory than it may is ended and told, and the next one goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import resident_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep_loader.helper import BuildLimits
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
T5 = taxonomy_pb2.MODEL_TYPE_T5_ENCODER
#: Enough for what a library imports at its first use, and not for a component of this size besides.
LIMIT_BYTES = 256 << 20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    for seed, name in enumerate(("one", "two", "three", "four", "five")):
        tinymodels.vae(widths=(32, 64), seed=seed).save_pretrained(models / name)
    # Cast to float32 it is 256 MiB, all in memory of the process's own.
    tinymodels.t5_encoder(vocabulary=1 << 21).half().save_pretrained(models / "wide")
    async with lender(folder / "data", models, warm_helper=True, build_memory_bytes=LIMIT_BYTES) as both:
        await both.app.helper.warm()
        yield both


@pytest.mark.long  # a helper that starts imports for seconds; one that takes too much memory ends alike
async def test_a_build_that_hangs_is_ended_and_told_and_the_next_one_goes_on(
    loader: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await loader.register(loader.models / name, type=VAE) for name in ("one", "two")]
    hung = loader.app.helper.pid
    os.kill(hung, signal.SIGSTOP)
    monkeypatch.setattr(loader.app.helper, "_limits", BuildLimits(2.0))  # too short for what does not hang
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(one, "", "bfloat16"))
    monkeypatch.undo()
    assert "did not end within 2 s" in error.message
    assert error.metadata["setting"] == "build_timeout_s"
    assert (await load(loader, component(two, "", "bfloat16")))[-1].resident.size_bytes > 0
    assert loader.app.helper.pid not in (0, hung)
    (failed,) = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest(key=one))).residents
    assert (failed.state, failed.error.reason) == (resident_pb2.RESIDENT_STATE_FAILED, "INVALID_MODEL")


@pytest.mark.long
async def test_a_file_whose_reading_hangs_is_told_and_the_next_build_goes_on(
    loader: Lender, monkeypatch: pytest.MonkeyPatch
) -> None:
    four, five = [await loader.register(loader.models / name, type=VAE) for name in ("four", "five")]
    answers = threading.Event()  # as a file server that does not

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("modelkeep_loader.helper.verify", lambda *arguments: answers.wait())
        meanwhile.setattr("modelkeep_loader.helper.LET_GO_S", 0.1)
        meanwhile.setattr(loader.app.helper, "_limits", BuildLimits(3.0))
        with refused("INVALID_MODEL") as error:
            await acquire(loader, component(four, "", "bfloat16"))
    assert "did not end within 3 s" in error.message
    assert (await load(loader, component(five, "", "bfloat16")))[-1].resident.size_bytes > 0
    answers.set()


@pytest.mark.long
async def test_a_build_that_takes_more_memory_than_it_may_is_ended_and_told(loader: Lender) -> None:
    wide = await loader.register(loader.models / "wide", type=T5)
    before = loader.app.helper.pid
    with refused("RAM_EXHAUSTED") as error:
        await acquire(loader, component(wide, "", "float32"))
    assert f"more than {LIMIT_BYTES:,} bytes besides the component" in error.message
    assert error.metadata["setting"] == "build_memory_bytes"
    three = await loader.register(loader.models / "three", type=VAE)
    assert (await load(loader, component(three, "", "float16")))[-1].resident.size_bytes > 0
    assert loader.app.helper.pid not in (0, before)
