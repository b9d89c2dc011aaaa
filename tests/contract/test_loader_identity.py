"""What is lent is what its identity says, however files change meanwhile and whatever records claim."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mmap
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from blake3 import blake3

from modelkeep.loader.v1 import hold_pb2, load_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2
from modelkeep_loader.domain import digests
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load, release
from support.loaders import Lender, component, files_of, lender
from support.smalldisk import small_disk
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A file system whose dirty pages are never written back, so that they stay dirty."""
    with small_disk(128) as place:
        yield place


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path, disk: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    async with lender(folder / "data", models, import_roots=(models, disk), warm_helper=True) as both:
        yield both


async def unlisted(loader: Lender, place: Path) -> str:
    """The key of a record that claims nothing of its files' contents, as before its digests are known."""
    key = await loader.register(place, type=VAE)
    files = list(files_of(place))
    for file in files:
        file.ClearField("sha256")
        file.ClearField("digest_state")
    update = record_service_pb2.UpdateModelRequest(model={"key": key}, files=files, replace_files=True)
    await loader.records.UpdateModel(update)
    return key


def values_of(weights: Path, value: float) -> bytes:
    """The same file with one value in all its tensors."""
    import torch
    from safetensors.torch import load_file, save

    state = {name: torch.full_like(tensor, value) for name, tensor in load_file(weights).items()}
    return bytes(save(state, {"format": "pt"}))


async def first_values(worker: Worker, key: str) -> Any:
    """What a worker gets of a VAE."""
    await worker.do("hold", key=key, submodel=None, precision="float32")
    tensors = await worker.do("tensors")
    await worker.do("release")
    return tensors


@pytest.mark.parametrize("how", ["moved over it", "written into it"])
async def test_a_file_that_is_replaced_by_one_of_equal_size_and_time_is_lent_as_what_it_is(
    loader: Lender, worker: Worker, how: str
) -> None:
    place, twin = (loader.models / f"{name}-{how[:5]}" for name in ("epoch", "twin"))
    shutil.copytree(loader.models / "vae", place)
    await asyncio.to_thread((place / WEIGHTS).write_bytes, values_of(place / WEIGHTS, 0.25))
    os.utime(place / WEIGHTS, (1, 1))
    shutil.copytree(place, twin)
    key, other = await unlisted(loader, place), await unlisted(loader, twin)
    before = await first_values(worker, key)
    assert await first_values(worker, other) == before

    later = place / "later"
    await asyncio.to_thread(later.write_bytes, values_of(place / WEIGHTS, 0.75))
    os.utime(later, (1, 1))
    if how == "moved over it":
        later.rename(place / WEIGHTS)
    else:
        shutil.copyfile(later, place / WEIGHTS)
        os.utime(place / WEIGHTS, (1, 1))
    assert (place / WEIGHTS).stat().st_size == (twin / WEIGHTS).stat().st_size
    assert (place / WEIGHTS).stat().st_mtime == (twin / WEIGHTS).stat().st_mtime
    after = await first_values(worker, key)
    assert after != before
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=other))
    assert await first_values(worker, key) == after
    assert await first_values(worker, other) == before, "nobody else is lent what the file is now"


async def test_a_file_that_changes_without_any_sign_is_built_as_what_it_is(
    loader: Lender, worker: Worker, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, twin = disk / "quiet", disk / "quiet-twin"
    shutil.copytree(loader.models / "vae", place)
    shutil.copytree(place, twin)
    key, other = await unlisted(loader, place), await unlisted(loader, twin)
    changed = values_of(place / WEIGHTS, 0.75)
    monkeypatch.setattr(digests, "_FRESH_S", 0.0)  # as if an hour had gone by
    with (place / WEIGHTS).open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        for page in range(0, len(mapping), mmap.PAGESIZE):
            mapping[page] = mapping[page]  # what is written to a page that is dirty already leaves no trace
        status = (place / WEIGHTS).stat()
        (first,) = (await acquire(loader, component(key, "", "bfloat16"))).manifests
        before = await first_values(worker, other)
        mapping[:] = changed
        now = (place / WEIGHTS).stat()
        assert (now.st_mtime_ns, now.st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
        for lease in loader.app.lending.leases.alive():
            loader.app.lending.leases.release(lease)
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))
        frames = await load(loader, component(key, "", "bfloat16"))
        assert frames[-1].resident.id != first.resident_id
        assert await first_values(worker, other) == before
        assert await first_values(worker, key) != before


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_a_file_that_changes_between_plan_and_memory_is_not_lent_under_the_old_identity(
    loader: Lender, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place = loader.models / f"changes-{moment}"
    tinymodels.vae(seed=11 if moment == "before" else 12).save_pretrained(place)
    weights = place / WEIGHTS
    ref = component(await loader.register(place, type=VAE), "", "bfloat16")
    helper = loader.app.helper
    step = "_build" if moment == "before" else "_ask"
    do = getattr(helper, step)

    async def change_and_do(*arguments: Any) -> Any:
        if moment == "before":
            await asyncio.to_thread(shutil.copyfile, loader.models / "vae" / WEIGHTS, weights)
        done = await do(*arguments)
        await asyncio.to_thread(os.utime, weights)
        return done

    monkeypatch.setattr(helper, step, change_and_do)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, ref)
    assert "Ask again" in error.remedy
    monkeypatch.undo()
    twin = loader.models / f"twin-{moment}"
    await asyncio.to_thread(shutil.copytree, place, twin)
    lent = await acquire(loader, ref)
    now = await acquire(loader, component(await loader.register(twin, type=VAE), "", "bfloat16"))
    assert lent.manifests[0].resident_id == now.manifests[0].resident_id
    for grant in (lent, now):
        await release(loader, grant)


@pytest.mark.parametrize("first", ["honest", "lying"])
async def test_a_record_that_lies_about_a_digest_gets_nobody_other_weights(
    loader: Lender, worker: Worker, first: str
) -> None:
    honest, lying = (loader.models / f"{who}-{first}" for who in ("honest", "lying"))
    tinymodels.vae(seed=21 if first == "honest" else 22).save_pretrained(honest)
    shutil.copytree(honest, lying)
    keys = {
        "honest": await loader.register(honest, type=VAE),
        "lying": await loader.register(lying, type=VAE),
    }
    with (lying / WEIGHTS).open("r+b") as file:  # its record goes on claiming the honest one's digest
        file.seek(-1_000_000, os.SEEK_END)
        file.write(b"\x42" * 1_000_000)
    status = (honest / WEIGHTS).stat()
    for path in (honest / WEIGHTS, lying / WEIGHTS):
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    files = list(files_of(honest))
    for key in keys.values():
        update = record_service_pb2.UpdateModelRequest(model={"key": key}, files=files, replace_files=True)
        await loader.records.UpdateModel(update)
    expected = await worker.do(
        "reference", folder=str(honest), class_name="AutoencoderKL", precision="bfloat16"
    )
    for who in (first, "honest", "lying", "honest"):
        if who == "lying":
            with refused("CHECKSUM_MISMATCH"):
                await acquire(loader, component(keys[who], "", "bfloat16"))
            continue
        await worker.do("hold", key=keys[who], submodel=None, precision="bfloat16")
        assert await worker.do("tensors") == expected["tensors"]
        await worker.do("release")


async def test_one_identity_has_one_content_while_somebody_goes_on_replacing_the_file(
    loader: Lender,
) -> None:
    place, twin = loader.models / "restless", loader.models / "restless-twin"
    shutil.copytree(loader.models / "vae", place)
    versions = [values_of(place / WEIGHTS, value) for value in (0.25, 0.75)]
    await asyncio.to_thread((place / WEIGHTS).write_bytes, versions[0])
    shutil.copytree(place, twin)
    keys = [await unlisted(loader, place), await unlisted(loader, twin)]
    over = threading.Event()

    def replace_again_and_again() -> None:
        for number in itertools.count(1):
            data = versions[number % 2]
            if number % 3:
                with (place / WEIGHTS).open("r+b") as file:
                    file.write(data)
            else:
                (place / "next").write_bytes(data)
                (place / "next").replace(place / WEIGHTS)
            os.utime(place / WEIGHTS, (1, 1))
            if over.wait(0.05 * (number % 7)):
                return

    def contents(grant: hold_pb2.Grant) -> bytes:
        resident = loader.app.lending.leases.get(grant.lease.id).residents[0]
        assert resident.built is not None
        fd = resident.built.memory.open_for_holder()
        try:
            return blake3(os.pread(fd, resident.size_bytes, grant.manifests[0].tensors[0].offset)).digest()
        finally:
            os.close(fd)

    seen: dict[str, set[bytes]] = {}
    replacing = asyncio.create_task(asyncio.to_thread(replace_again_and_again))
    try:
        for turn in range(20):
            with contextlib.suppress(grpc.RpcError):  # changed while it was loaded, twice in a row
                grant = await acquire(loader, component(keys[turn % 2], "", "float32"))
                seen.setdefault(grant.lease.resident_ids[0], set()).add(
                    await asyncio.to_thread(contents, grant)
                )
                await release(loader, grant)
                await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=keys[turn % 2]))
    finally:
        over.set()
        await replacing
    assert seen
    assert {len(found) for found in seen.values()} == {1}
