"""What becomes of residents when the models that they were asked for by are removed."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import resident_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2
from support import tinymodels
from support.lending import acquire, load, release
from support.loaders import Lender, component, lender
from support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.vae(widths=(32, 64)).save_pretrained(models / "one")
    shutil.copytree(models / "one", models / "twin")
    tinymodels.vae(widths=(32, 64), seed=3).save_pretrained(models / "other")
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def remove(loader: Lender, key: str) -> None:
    await loader.records.DeleteModel(record_service_pb2.DeleteModelRequest(key=key))


async def residents(loader: Lender) -> list[resident_pb2.Resident]:
    return list((await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents)


def held(loader: Lender) -> list[str]:
    """Ids of what is resident now."""
    return [resident.id for resident in loader.app.lending.cache.tier.residents()]


async def test_what_was_a_removed_models_alone_is_dropped_and_what_is_leased_is_marked_till_then(
    loader: Lender,
) -> None:
    idle, leased = [await loader.register(loader.models / name, type=VAE) for name in ("one", "other")]
    await load(loader, component(idle, "", "bfloat16"))
    grant = await acquire(loader, component(leased, "", "bfloat16"))
    await remove(loader, idle)
    await until(lambda: held(loader) == list(grant.lease.resident_ids))
    await remove(loader, leased)
    await until(lambda: loader.app.lending.cache.tier.residents()[0].is_orphan)
    (told,) = await residents(loader)
    assert (told.model_removed, list(told.lease_ids)) == (True, [grant.lease.id])
    await release(loader, grant)
    assert await residents(loader) == []


async def test_what_another_model_has_as_well_stays_under_that_models_name(loader: Lender) -> None:
    first, second = [await loader.register(loader.models / name, type=VAE) for name in ("one", "twin")]
    shared = (await load(loader, component(first, "", "bfloat16")))[-1].resident
    assert (await load(loader, component(second, "", "bfloat16")))[-1].resident.id == shared.id
    await remove(loader, first)
    await until(lambda: loader.app.lending.cache.tier.known_keys() == {second})
    (told,) = await residents(loader)
    assert (told.id, told.display_name, told.model_removed) == (shared.id, "twin", False)
    await remove(loader, second)
    await until(lambda: held(loader) == [])


async def test_a_model_that_was_removed_while_nobody_followed_is_noticed_later(loader: Lender) -> None:
    key = await loader.register(loader.models / "one", type=VAE)
    await load(loader, component(key, "", "bfloat16"))
    await loader.app.follower.close()
    await remove(loader, key)
    loader.app.follower.open()
    await until(lambda: held(loader) == [], 60)
