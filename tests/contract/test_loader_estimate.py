"""EstimateLoad over a real channel: what it says of real models, and that it leaves no trace."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.client import AsyncClient
from modelkeep.loader.v1 import capacity_pb2, estimate_pb2, resident_pb2, residents_pb2
from support import tinymodels
from support.failures import refused
from support.lending import evict_all, load
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.save_pipeline(models / "sd")
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd", name="tiny")


async def asked(
    loader: Lender, *components: resident_pb2.ComponentRef, activation_bytes: int = 0
) -> estimate_pb2.EstimateLoadResponse:
    request = estimate_pb2.EstimateLoadRequest(components=components, activation_bytes=activation_bytes)
    answer: estimate_pb2.EstimateLoadResponse = await loader.stub.EstimateLoad(request)
    return answer


async def test_before_anything_was_read_the_size_is_known_and_the_identity_is_not(
    loader: Lender, key: str
) -> None:
    before = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    answer = await asked(loader, component(key, "unet", "float16"), activation_bytes=1000)
    (one,) = answer.components
    assert (one.resident_id, one.tier, one.state) == ("", 0, 0)
    assert (one.display_name, one.class_name) == ("tiny/unet", "UNet2DConditionModel")
    assert one.precision == resident_pb2.PRECISION_FLOAT16
    weights = loader.models / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    assert one.file_size_bytes == weights.stat().st_size
    # Besides: what the lease reserves, and what building takes, which is less than the files.
    assert one.size_bytes + 1000 < answer.needed_bytes < one.size_bytes + 1000 + one.file_size_bytes
    assert answer.fits_now
    assert answer.fits_at_all
    assert answer.load_seconds == one.load_seconds > 0
    assert await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest()) == before
    assert not (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    planner: Any = loader.app.lending.planner
    assert not planner._kept
    assert not planner._digester._kept

    (resident,) = [
        f.resident for f in await load(loader, component(key, "unet", "float16")) if f.HasField("resident")
    ]
    assert one.size_bytes == pytest.approx(resident.size_bytes, rel=0.1)


async def test_what_is_there_is_named_and_another_precision_of_it_is_known_to_be_missing(
    loader: Lender, key: str
) -> None:
    await load(loader, component(key, "vae"))
    same, other = (await asked(loader, component(key, "vae"), component(key, "vae", "bfloat16"))).components
    (vae,) = [
        one
        for one in (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
        if one.class_name == "AutoencoderKL"
    ]
    assert (same.resident_id, same.tier) == (vae.id, resident_pb2.TIER_RAM)
    assert same.state == resident_pb2.RESIDENT_STATE_RESIDENT
    assert (same.size_bytes, same.load_seconds) == (vae.size_bytes, 0.0)
    assert other.resident_id not in ("", same.resident_id)
    assert other.state == resident_pb2.RESIDENT_STATE_UNSPECIFIED


async def test_what_cannot_be_lent_is_refused_as_by_a_load(loader: Lender, key: str) -> None:
    with refused("UNKNOWN_MODEL"):
        await asked(loader, component("0" * 32))
    with refused("SUBMODEL_REQUIRED"):
        await asked(loader, component(key))
    with refused("FIELD_INVALID"):
        await asked(loader)


async def test_a_file_that_changed_is_not_known_any_more(loader: Lender, key: str) -> None:
    await load(loader, component(key, "text_encoder"))
    (one,) = (await asked(loader, component(key, "text_encoder"))).components
    assert one.resident_id
    weights = loader.models / "sd" / "text_encoder" / "model.safetensors"
    os.utime(weights, ns=(1, weights.stat().st_mtime_ns))
    (one,) = (await asked(loader, component(key, "text_encoder"))).components
    assert one.resident_id == ""


async def test_the_client_asks_too(loader: Lender, key: str) -> None:
    async with AsyncClient(loader=loader.address, record=loader.record_address) as client:
        answer = await client.model_loader.estimate(
            key, ["vae", "unet"], precision="fp16", activation_bytes=5
        )
        assert [one.display_name for one in answer.components] == ["tiny/vae", "tiny/unet"]
        assert {one.precision for one in answer.components} == {resident_pb2.PRECISION_FLOAT16}
    await evict_all(loader)
