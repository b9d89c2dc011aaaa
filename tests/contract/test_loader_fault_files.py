"""Model files that are truncated, replaced or deleted: under a build, and under what is mapped."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep import frames
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load, release
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    shared_workers()  # begins to import while the models are made
    for seed, name in enumerate(("truncated", "deleted", "replaced", "other", "mapped", "good")):
        tinymodels.vae(widths=(32, 64), seed=seed).save_pretrained(models / name)
    async with lender(folder / "data", models, warm_helper=True) as both:
        await both.app.helper.warm()
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def good(loader: Lender) -> str:
    """The key of a model that nothing happens to."""
    return await loader.register(loader.models / "good", type=VAE)


def truncate(weights: Path) -> None:
    os.truncate(weights, 5000)


def replace(weights: Path) -> None:
    shutil.copy(weights.parents[1] / "other" / WEIGHTS, weights.with_suffix(".new"))
    weights.with_suffix(".new").rename(weights)


#: What becomes of the files, and what is said where nothing can be lent any more.
CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "INVALID_MODEL"),
    "deleted": (Path.unlink, "MODEL_NOT_FOUND_ON_DISK"),
    "replaced": (replace, ""),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_file_that_changes_while_it_is_built_from_harms_nothing_and_is_told(
    loader: Lender, good: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    change, reason = CHANGES[what]
    weights = loader.models / what / WEIGHTS
    key = await loader.register(weights.parent, type=VAE)
    send = frames.send_frame
    done: list[Any] = []

    def sending(link: Any, message: Any, descriptors: Any = ()) -> None:
        if "build" in message and not done:
            done.append(change(weights))  # open here already, and about to be read there
        send(link, message, descriptors)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(frames, "send_frame", sending)
        if reason:
            with refused(reason):
                await acquire(loader, component(key, "", "bfloat16"))
        else:
            await release(loader, await acquire(loader, component(key, "", "bfloat16")))
    assert len(done) == 1
    precision = {"truncated": "float32", "deleted": "float16", "replaced": "bfloat16"}[what]  # a build each
    assert (await load(loader, component(good, "", precision)))[-1].resident.size_bytes > 0
    if not reason:
        worker = await shared_workers().new()
        await worker.do("connect", address=loader.address)
        await worker.do("hold", key=key, submodel=None, precision="bfloat16")
        wanted = await worker.do(
            "reference",
            folder=str(loader.models / "other"),
            class_name="AutoencoderKL",
            precision="bfloat16",
        )
        assert await worker.do("tensors") == wanted["tensors"]
        await worker.do("release")
        await worker.close()


async def holder(loader: Lender, key: str) -> Worker:
    worker = await shared_workers().new()
    await worker.do("connect", address=loader.address)
    await worker.do("hold", key=key, submodel=None, precision="float32")
    return worker


async def test_what_is_mapped_stays_as_it_was_whatever_becomes_of_the_files(loader: Lender) -> None:
    """In the precision of the file, too: what is lent is never the file itself."""
    weights = loader.models / "mapped" / WEIGHTS
    kept = weights.read_bytes()
    key = await loader.register(weights.parent, type=VAE)
    worker = await holder(loader, key)
    before = await worker.do("tensors"), await worker.do("decode")
    changes: list[tuple[Callable[[], Any], str]] = [
        (lambda: os.truncate(weights, 0), "INVALID_MODEL"),
        (weights.unlink, "MODEL_NOT_FOUND_ON_DISK"),
        (lambda: weights.write_bytes(b"\xff" * 9000), "INVALID_MODEL"),
    ]
    for change, reason in changes:
        change()
        assert (await worker.do("tensors"), await worker.do("decode")) == before
        assert await worker.do("verify")
        with refused(reason):
            await acquire(loader, component(key, "", "float32"))
    weights.write_bytes(kept)
    other = await holder(loader, key)
    assert await other.do("tensors") == before[0]
    for one in (worker, other):
        await one.do("release")
        await one.close()
