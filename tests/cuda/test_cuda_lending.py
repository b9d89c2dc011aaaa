"""What the loader lends in RAM, moved to a GPU by its workers: the same bits, and nothing else harmed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelkeep.loader.v1 import residents_pb2
from support.lending import no_leases
from support.loaders import Lender, component
from support.workers import Worker, WorkerError

pytestmark = [pytest.mark.cuda, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VAE = {"submodel": "vae", "precision": "bfloat16"}


@pytest.mark.parametrize(
    ("submodel", "class_name", "precision"),
    [
        ("vae", "AutoencoderKL", "bfloat16"),
        ("vae", "AutoencoderKL", "float16"),
        ("vae", "AutoencoderKL", "float32"),
        ("unet", "UNet2DConditionModel", "bfloat16"),
        ("text_encoder", "CLIPTextModel", "float16"),
    ],
)
async def test_a_moved_component_is_bit_for_bit_what_from_pretrained_moved_gives(
    loader: Lender,
    key: str,
    workers: list[Worker],
    device: str,
    submodel: str,
    class_name: str,
    precision: str,
) -> None:
    ours, theirs, _ = workers
    await ours.do("hold", key=key, submodel=submodel, precision=precision)
    assert await ours.do("move", device=device) == [device]
    expected = await theirs.do(
        "reference",
        folder=str(loader.models / "sd" / submodel),
        class_name=class_name,
        precision=precision,
        device=device,
    )
    assert await ours.do("tensors") == expected["tensors"]
    if submodel == "vae":
        assert await ours.do("decode") == expected["decoded"]
    await ours.do("release")
    # The lease is over, and what is on the GPU is the worker's.
    assert await ours.do("tensors") == expected["tensors"]


async def test_what_is_lent_stays_as_it_is_while_another_worker_moves_it(
    loader: Lender, key: str, workers: list[Worker], device: str
) -> None:
    mover, keeper, _ = workers
    await keeper.do("hold", key=key, **VAE)
    before = [await keeper.do("tensors"), await keeper.do("decode")]
    await mover.do("hold", key=key, **VAE)
    assert (await mover.do("shared"))["Anonymous"] == 0
    await mover.do("move", device=device)
    assert await mover.do("tensors") == before[0]
    assert await mover.do("scribble"), "the copy on the GPU is the worker's own to write to"
    assert [await keeper.do("tensors"), await keeper.do("decode")] == before
    assert await keeper.do("verify")
    assert (await keeper.do("shared"))["Anonymous"] == 0
    await mover.do("release")
    await keeper.do("release")


async def test_two_workers_move_one_component_at_once(
    loader: Lender, key: str, workers: list[Worker], device: str
) -> None:
    async def use(worker: Worker) -> tuple[str, str]:
        await worker.do("hold", key=key, **VAE)
        await worker.do("move", device=device)
        found = await worker.do("tensors"), await worker.do("decode")
        await worker.do("release")
        return found

    first, second = await asyncio.gather(*map(use, workers[:2]))
    assert first == second
    residents = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    wanted = component(key, **VAE)
    assert len([resident for resident in residents if wanted in resident.components]) == 1


async def test_a_worker_that_is_killed_while_it_copies_leaves_the_loader_and_the_others_sane(
    loader: Lender, key: str, workers: list[Worker], device: str, tmp_path: Path
) -> None:
    _, keeper, copier = workers
    await keeper.do("hold", key=key, **VAE)
    before = await keeper.do("tensors")
    free = await keeper.do("free_device_bytes", device=device)
    await copier.do("hold", key=key, submodel="unet", precision="bfloat16")
    started = tmp_path / "started"
    copying = asyncio.create_task(copier.do("copy_without_end", device=device, started=str(started)))
    while not started.exists():
        assert not copying.done()
        await asyncio.sleep(0.01)
    copier.kill()
    with pytest.raises(WorkerError, match="died"):
        await copying
    assert await keeper.do("tensors") == before
    await keeper.do("release")
    await no_leases(loader)
    # Both components are lent again, and the dead worker's memory of the GPU is free again.
    for submodel in ("unet", "vae"):
        await keeper.do("hold", key=key, submodel=submodel, precision="bfloat16")
        await keeper.do("move", device=device)
        await keeper.do("release")
    assert await keeper.do("tensors") == before
    for _ in range(200):
        if await keeper.do("free_device_bytes", device=device) > free - (256 << 20):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the GPU's memory of a killed worker is not given back")
