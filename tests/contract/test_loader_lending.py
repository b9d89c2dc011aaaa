"""LoaderService over real channels, with real weights and real worker processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, load_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, leases, load, no_leases, release
from support.loaders import Lender, component, lender
from support.workers import Worker, WorkerError, Workers, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT


@pytest.fixture(scope="module")
def workers() -> Workers:
    return shared_workers()


@pytest.fixture(scope="module")
def models(folder: Path, workers: Workers) -> Path:
    """Tiny models, made while the workers' parent imports its libraries."""
    place = folder / "imports"
    tinymodels.save_pipeline(place / "sd")
    tinymodels.save_vae_file(place / "ldm.safetensors", seed=7, ldm=True, prefix="first_stage_model.")
    tinymodels.vae(seed=7).save_pretrained(place / "as-folder")  # the same weights
    tinymodels.t5_encoder().save_pretrained(place / "t5")
    return place


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path, models: Path) -> AsyncIterator[Lender]:
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd", name="tiny")


@pytest_asyncio.fixture(loop_scope="module")
async def worker(workers: Workers, loader: Lender) -> AsyncIterator[Worker]:
    process = await workers.new()
    await process.do("connect", address=loader.address)
    yield process
    await process.close()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender) -> AsyncIterator[None]:
    """A test that fails does not make others fail by its leases."""
    yield
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)


@pytest.mark.parametrize(
    ("submodel", "class_name", "precision"),
    [
        ("vae", "AutoencoderKL", "bfloat16"),
        ("vae", "AutoencoderKL", "float32"),
        ("unet", "UNet2DConditionModel", "float16"),
        ("text_encoder", "CLIPTextModel", "bfloat16"),
    ],
)
async def test_a_worker_gets_bit_for_bit_what_from_pretrained_gives(
    loader: Lender, worker: Worker, key: str, submodel: str, class_name: str, precision: str
) -> None:
    facts = await worker.do("hold", key=key, submodel=submodel, precision=precision)
    expected = await worker.do(
        "reference", folder=str(loader.models / "sd" / submodel), class_name=class_name, precision=precision
    )
    assert await worker.do("tensors") == expected["tensors"]
    if submodel == "vae":
        assert await worker.do("decode") == expected["decoded"]
    assert await worker.do("verify")
    assert facts | {"name": "tiny", "type": submodel, "precision": f"torch.{precision}"} == facts
    assert (facts["hash"], facts["device"], facts["base"]) == ("imohash-of-it", "cpu", "sd-1")
    assert not facts["training"]
    assert not facts["gradients"]
    assert await worker.do("detach") != ""
    await worker.do("release")
    assert not await leases(loader)


async def test_tied_weights_and_layers_that_stay_in_float32_come_as_from_pretrained_has_them(
    loader: Lender, worker: Worker
) -> None:
    key = await loader.register(loader.models / "t5", type=taxonomy_pb2.MODEL_TYPE_T5_ENCODER)
    await worker.do("hold", key=key, submodel=None, precision="float16")
    expected = await worker.do(
        "reference", folder=str(loader.models / "t5"), class_name="T5EncoderModel", precision="float16"
    )
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def test_a_single_file_vae_with_the_names_of_a_checkpoint_is_converted(
    loader: Lender, worker: Worker
) -> None:
    path = loader.models / "ldm.safetensors"
    key = await loader.register(path, type=VAE, format=CHECKPOINT)
    await worker.do("hold", key=key, submodel=None, precision="float32")
    folder = str(loader.models / "as-folder")
    expected = await worker.do("reference", folder=folder, class_name="AutoencoderKL", precision="float32")
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def test_two_workers_share_one_copy_and_a_write_in_one_stays_there(
    loader: Lender, workers: Workers, key: str
) -> None:
    both = [await workers.new(), await workers.new()]
    for one in both:
        await one.do("connect", address=loader.address)
        facts = await one.do("hold", key=key, submodel="vae", precision="bfloat16")
        # A module's Python objects take a MB or two, whatever its weights take.
        assert facts["private_bytes"] < facts["weight_bytes"] / 3
    for one in both:
        await one.do("shared")
    for memory in [await one.do("shared") for one in both]:
        # Nobody but the two maps it: each has half of every page.
        assert memory["Pss"] == pytest.approx(memory["Rss"] / 2, rel=0.02)
        assert memory["Anonymous"] == 0
    usage = (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers[0]
    assert 0 < usage.leased_bytes <= usage.used_bytes <= usage.budget_bytes
    before = await both[1].do("decode")
    assert await both[0].do("scribble")
    assert (await both[0].do("shared"))["Anonymous"] == 4096
    assert await both[1].do("decode") == before
    for one in both:
        await one.do("release")
        await one.close()


async def test_a_killed_worker_loses_its_lease_at_once_and_the_other_goes_on(
    loader: Lender, workers: Workers, key: str
) -> None:
    victim, other = await workers.new(), await workers.new()
    for one in (victim, other):
        await one.do("connect", address=loader.address, label=f"worker-{one.pid}")
        await one.do("hold", key=key, submodel="vae", precision="bfloat16")
    before = await other.do("decode")
    held = {lease.holder.pid: lease for lease in await leases(loader)}
    assert held.keys() == {victim.pid, other.pid}
    lease = held[victim.pid]
    assert (lease.holder.uid, lease.holder.label) == (os.geteuid(), f"worker-{victim.pid}")
    assert lease.stream_bound
    assert lease.descriptor_connections == 1
    victim.kill()
    while len(await leases(loader)) > 1:  # noqa: ASYNC110  the kernel tells the loader, and nobody the test
        await asyncio.sleep(0.005)
    assert [left.holder.pid for left in await leases(loader)] == [other.pid]
    assert await other.do("decode") == before
    await other.do("release")
    await other.close()
    await victim.close()


async def test_a_forked_child_does_not_keep_its_dead_parents_lease(
    loader: Lender, worker: Worker, key: str
) -> None:
    await worker.do("hold", key=key, submodel="vae", precision="bfloat16")
    child = await worker.do("fork")
    worker.kill()
    await no_leases(loader)
    assert Path(f"/proc/{child}").exists()
    # The child still maps the memory: evicted, its bytes are zombies until it dies.
    evicted = await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key, submodel="SUB_MODEL_TYPE_VAE"))
    assert evicted.zombie_bytes > 0
    usage = (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers[0]
    assert usage.zombie_bytes == evicted.zombie_bytes
    os.kill(child, 9)
    for _ in range(300):
        usage = (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers[0]
        if usage.zombie_bytes == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the zombie bytes are still counted")


async def test_lent_memory_cannot_be_changed_through_its_descriptor(
    loader: Lender, worker: Worker, key: str
) -> None:
    answers = await worker.do("break_in", key=key, submodel="vae", precision="bfloat16")
    assert answers == ["OSError", "PermissionError", "PermissionError", "PermissionError", "PermissionError"]


async def test_models_with_the_same_component_share_it(loader: Lender, key: str) -> None:
    twin = loader.models / "twin"
    shutil.copytree(loader.models / "sd" / "vae", twin)
    other = await loader.register(twin, type=VAE)
    first, second = [
        (await load(loader, one))[-1].resident
        for one in (component(key, "vae", "bfloat16"), component(other, "", "bfloat16"))
    ]
    assert first.id == second.id
    assert {one.key for one in second.components} == {key, other}
    assert second.display_name == "tiny/vae", "its name in the model that asked first"
    # A file that was changed behind the record's back is another component: the one that it holds.
    shutil.copyfile(
        loader.models / "as-folder" / "diffusion_pytorch_model.safetensors",
        twin / "diffusion_pytorch_model.safetensors",
    )
    third = (await load(loader, component(other, "", "bfloat16")))[-1].resident
    assert third.id != first.id
    same = await loader.register(loader.models / "as-folder", type=VAE)
    assert (await load(loader, component(same, "", "bfloat16")))[-1].resident.id == third.id


async def test_a_grant_on_a_resident_is_quick(loader: Lender, worker: Worker, key: str) -> None:
    await load(loader, component(key, "vae", "bfloat16"))
    await worker.do("grants", key=key, submodel="vae", precision="bfloat16", count=20)
    times = await worker.do("grants", key=key, submodel="vae", precision="bfloat16", count=100)
    print(f"grant p50 {statistics.median(times) * 1e3:.2f} ms, p99 {sorted(times)[98] * 1e3:.2f} ms")
    assert statistics.median(times) < 0.2  # loading would take longer, on any machine


async def test_events_carry_the_callers_context(loader: Lender, worker: Worker, key: str) -> None:
    context = {"queue_id": "default", "queue_item_id": 3, "graph_execution_state_id": "g"}
    await worker.do("hold", key=key, submodel="vae", precision="bfloat16", context=context)
    events = await worker.do("events")
    assert [name for name, _ in events] == ["model_load_started", "model_load_completed"]
    payload = {
        **context,
        "queue_batch_id": None,
        "model_key": key,
        "submodel": "vae",
        "hash": "imohash-of-it",
        "location": str(loader.models / "sd"),
        "precision": "torch.bfloat16",
    }
    assert [found for _, found in events] == [payload, payload]
    await worker.do("release")


async def test_errors_reach_the_worker_as_exceptions(loader: Lender, worker: Worker, key: str) -> None:
    unknown = loader.models / "of-no-known-class"
    unknown.mkdir()
    (unknown / "config.json").write_text('{"_class_name": "NobodysModel"}')
    other = await loader.register(unknown, type=taxonomy_pb2.MODEL_TYPE_VAE)
    for arguments, name in (
        ({"key": "0" * 32, "submodel": "vae"}, "UnknownModelException"),
        ({"key": key, "submodel": None}, "SubmodelRequiredException"),
        ({"key": other, "submodel": None}, "InvalidModelException"),
        ({"key": key, "submodel": "text_encoder_2"}, "UnknownSubmodelException"),
    ):
        with pytest.raises(WorkerError) as raised:
            await worker.do("hold", precision="auto", **arguments)
        assert raised.value.args[0] == name


async def test_the_record_is_obeyed_where_it_changes_what_is_loaded(
    loader: Lender, worker: Worker, key: str
) -> None:
    other = loader.models / "as-folder"
    shutil.copytree(loader.models / "sd", loader.models / "sd-2")
    changed = await loader.register(
        loader.models / "sd-2",
        name="with another vae",
        main={"vae": str(other), "upcast_attention": True},
    )
    await worker.do("hold", key=changed, submodel="vae", precision="float32")
    expected = await worker.do(
        "reference", folder=str(other), class_name="AutoencoderKL", precision="float32"
    )
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")
    grant = await acquire(loader, component(changed, "unet"))
    assert '"upcast_attention": true' in grant.manifests[0].config_json
    await release(loader, grant)
    deleted = record_service_pb2.DeleteModelRequest(key=changed)
    await loader.records.DeleteModel(deleted)
    with refused("UNKNOWN_MODEL"):
        await acquire(loader, component(changed, "unet"))
