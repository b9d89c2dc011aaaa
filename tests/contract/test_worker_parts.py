"""Components that are used while others of the same request still come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import torch

from modelkeep.exceptions import InvalidModelException, ModelkeepError, RamExhaustedException
from modelkeep.loader.v1 import load_pb2, residents_pb2
from modelkeep.worker import ModelLoader
from modelkeep_loader.domain.components import Plan
from modelkeep_loader.helper import Helper
from support import tinymodels
from support.lending import leases, no_leases
from support.loaders import Lender, lender
from support.originalforwards import output_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


class Gate:
    """Holds up the builds of UNets."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.error: ModelkeepError | None = None

    async def build(self, real: Any, plan: Plan, progress: Any) -> Any:
        if plan.class_name == "UNet2DConditionModel":
            await self._open.wait()
            if self.error is not None:
                raise self.error
        return await real(plan, progress)

    def let_through(self) -> None:
        """From any thread."""
        self.loop.call_soon_threadsafe(self._open.set)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Any) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd", widths=(32, 64))
    async with lender(folder / "data", models, warm_helper=True, detach_grace_s=0.2) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd")


@pytest_asyncio.fixture(loop_scope="module")
async def gate(loader: Lender, monkeypatch: pytest.MonkeyPatch) -> Gate:
    made, helper = Gate(), loader.app.helper
    real = Helper.build.__get__(helper)
    monkeypatch.setattr(helper, "build", lambda plan, progress: made.build(real, plan, progress))
    await loader.stub.EvictModel(load_pb2.EvictModelRequest())
    return made


@pytest.fixture
def models(loader: Lender) -> Iterator[ModelLoader]:
    with ModelLoader(loader.address, max_wait_s=5.0, precision="float32") as opened:
        yield opened


PARTS = ("text_encoder", "unet", "vae")


async def test_the_text_encoder_is_used_before_the_unet_has_come(
    loader: Lender, models: ModelLoader, key: str, gate: Gate
) -> None:
    def use() -> None:
        with models.get_parts(key, *PARTS) as parts:
            assert list(parts) == list(PARTS)
            words = output_of(parts["text_encoder"])
            assert not parts.is_there("unet")
            gate.let_through()
            assert output_of(parts["unet"])
            assert parts.is_there("vae") or parts["vae"]
            assert parts["text_encoder"] is parts["text_encoder"]
            kept = parts["text_encoder"]
        assert output_of(kept) == words, "it goes on working"
        with models.get_model(key, "text_encoder") as alone:
            assert output_of(alone) == words

    await asyncio.to_thread(use)
    await no_leases(loader)


async def test_the_room_is_had_for_all_or_for_none(
    loader: Lender, models: ModelLoader, key: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader.app.lending.cache.tier, "budget_bytes", 1 << 20)

    def use() -> None:
        with models.get_parts(key, *PARTS) as parts:
            for name in PARTS:
                with pytest.raises(RamExhaustedException):
                    _ = parts[name]

    await asyncio.to_thread(use)
    residents = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    assert not residents, "nothing was loaded"


async def test_what_has_come_stays_when_another_cannot(
    loader: Lender, models: ModelLoader, key: str, gate: Gate
) -> None:
    gate.error = InvalidModelException("It is broken.", remedy="Mend it.", retry_after=0.0)

    def use() -> None:
        with models.get_parts(key, *PARTS) as parts:
            words = output_of(parts["text_encoder"])
            gate.let_through()
            with pytest.raises(InvalidModelException, match="It is broken"):
                _ = parts["unet"]
            assert output_of(parts["text_encoder"]) == words

    await asyncio.to_thread(use)
    await no_leases(loader)


async def test_who_leaves_before_all_have_come_holds_nothing(
    loader: Lender, models: ModelLoader, key: str, gate: Gate
) -> None:
    waiting: list[BaseException] = []

    def look_up(parts: Any) -> None:
        try:
            parts["unet"]
        except ModelkeepError as error:
            waiting.append(error)

    def use() -> None:
        parts = models.get_parts(key, "text_encoder", "unet")
        with pytest.raises(RuntimeError, match="Enter it first"):
            _ = parts["unet"]
        with parts:
            assert isinstance(parts["text_encoder"], torch.nn.Module)
            with pytest.raises(KeyError):
                _ = parts["vae"]
            other = threading.Thread(target=look_up, args=(parts,))
            other.start()
        other.join(30)
        assert len(waiting) == 1
        with pytest.raises(RuntimeError, match="call get_parts anew"):
            parts.__enter__()

    await asyncio.to_thread(use)
    await no_leases(loader)
    gate.let_through()
    assert not await leases(loader)
