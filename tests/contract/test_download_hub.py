"""CreateDownload of what a hub of the real kind names, to the last byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import Cut, pattern
from support.hub import Hub

COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
WEIGHTS = pattern(400_000, seed=3)
CONFIG = b'{"_class_name": "AutoencoderKL"}'
VAE = {"config.json": CONFIG, "diffusion_pytorch_model.bin": WEIGHTS}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
PIPELINE = {
    "model_index.json": json.dumps(INDEX).encode(),
    "scheduler/scheduler_config.json": b"{}",
    "unet/config.json": b'{"a": 1}',
    "unet/diffusion_pytorch_model.safetensors": b"\0full" * 40_000,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"\0half" * 20_000,
    "unet/diffusion_pytorch_model.bin": b"\0pickle" * 9000,
    "other.safetensors": b"\0other" * 9000,
    "README.md": b"# x\n",
}


@pytest.fixture
async def client(data_dir: Path, hub: Hub) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, hub_endpoint=hub.url) as service:
        yield service


def remote(source: str, **fields: str) -> download_pb2.DownloadSource:
    return download_pb2.DownloadSource(remote={"source": source, **fields})


def delivered(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


async def test_a_repository_arrives_as_it_was_when_it_was_asked_for(client: DownloadClient, hub: Hub) -> None:
    repository = hub.repository("org/vae", VAE)
    commit = repository.sha
    job = await client.create(source=remote("org/vae"), destination=f"{client.folder}/vae", start=False)
    repository.commit({"config.json": b"{}", "diffusion_pytorch_model.bin": WEIGHTS[::-1]})
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    done = await client.ended(job)
    assert (done.state, done.source.remote.revision) == (COMPLETED, commit)
    assert delivered(client.folder / "vae") == VAE
    files = {file.path: file for file in (await client.get(job)).files}
    assert files["diffusion_pytorch_model.bin"].verified
    assert not any("authorization" in request.headers for request in hub.storage.requests)


async def test_a_file_of_a_repository_arrives_alone(client: DownloadClient, hub: Hub) -> None:
    hub.repository("org/vae", VAE)
    hub.fail_storage("diffusion_pytorch_model.bin", Cut(100_000))
    done = await client.run(source=remote("org/vae:diffusion_pytorch_model.bin"))
    assert (done.state, done.verified, done.file_count) == (COMPLETED, True, 0)
    assert Path(done.path).name == "diffusion_pytorch_model.bin"
    assert Path(done.path).read_bytes() == WEIGHTS


async def test_a_gated_repository_is_refused_in_the_call_and_fetched_with_a_token(
    client: DownloadClient, hub: Hub
) -> None:
    hub.repository("org/gated", VAE, gated="manual").grant("alice")
    with refused("TOKEN_REQUIRED"):
        await client.create(source=remote("org/gated"), destination=f"{client.folder}/gated")
    token = hub.token("alice")
    job = await client.create(
        source=remote("org/gated"), destination=f"{client.folder}/gated", access_token=token
    )
    done = await client.ended(job)
    assert done.state == COMPLETED, done.error
    assert delivered(client.folder / "gated") == VAE
    assert token not in str(await client.get(job))
    assert not any("authorization" in request.headers for request in hub.storage.requests)


async def test_what_the_hub_does_not_have_is_the_calls_error(client: DownloadClient, hub: Hub) -> None:
    with refused("SOURCE_NOT_FOUND"):
        await client.create(source=remote("org/nothing"))
    with refused("FIELD_INVALID"):
        await client.create(source=remote("https://huggingface.co/datasets/org/name"))
    assert not (await client.stub.ListDownloads(pb.ListDownloadsRequest())).downloads


@pytest.mark.parametrize("variant", ["", "fp16"])
async def test_a_gated_pipeline_arrives_whole_and_the_token_stays_with_the_hub(
    client: DownloadClient, hub: Hub, variant: str
) -> None:
    repository = hub.repository("org/model", PIPELINE, gated="auto")
    repository.grant("alice")
    done = await client.run(
        source=remote("org/model", variant=variant),
        destination=f"{client.folder}/m",
        access_token=hub.token("alice"),
    )
    assert done.state == COMPLETED, done.error
    assert done.source.remote.revision == repository.sha
    dot = ".fp16" if variant else ""
    weights = f"unet/diffusion_pytorch_model{dot}.safetensors"
    wanted = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", weights]
    assert delivered(client.folder / "m") == {name: PIPELINE[name] for name in wanted}
    assert hub.storage.requests
    assert not any("authorization" in request.headers for request in hub.storage.requests)


async def test_what_was_planned_is_fetched_though_the_branch_has_moved_on(
    client: DownloadClient, hub: Hub
) -> None:
    repository = hub.repository("org/lora", {"pytorch_lora_weights.safetensors": b"\0first" * 5000})
    first = repository.sha
    made = await client.create(source=remote("org/lora"), start=False)
    repository.commit({"pytorch_lora_weights.safetensors": b"\0second" * 5000})
    again = await client.run(source=remote(f"org/lora@{first}"), destination=f"{client.folder}/x.safetensors")
    assert again.state == COMPLETED, again.error
    assert Path(again.path).read_bytes().startswith(b"\0first")
    assert made.source.remote.revision == first
    newest = await client.run(source=remote("org/lora"), destination=f"{client.folder}/y.safetensors")
    assert Path(newest.path).read_bytes().startswith(b"\0second")
