"""A hub's gated files with a token that is kept, and with what its own client has fetched to this host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from modelkeep.download.v1 import download_pb2
from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import pattern
from support.hub import Hub

WEIGHTS = pattern(3_000_000, 1)
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}',
    "vae/config.json": b'{"_class_name": "AutoencoderKL"}',
    "vae/diffusion_pytorch_model.safetensors": WEIGHTS,
}
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as started:
        started.repository("org/gated", FILES, gated="auto").grant("alice")
        yield started


async def fetched(client: DownloadClient) -> Path:
    source = download_pb2.DownloadSource(remote={"source": "org/gated"})
    job = await client.ended(await client.create(source=source, destination=f"{client.folder}/model/"))
    assert job.state == download_pb2.DOWNLOAD_STATE_COMPLETED, job.error
    return client.folder / "model"


async def test_hf_token_of_the_service_opens_what_is_gated_and_leaves_the_hub_never(
    data_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with download_service(data_dir, hub_endpoint=hub.url) as client:
        with refused("TOKEN_REQUIRED"):
            await fetched(client)
    token = hub.token("alice")
    monkeypatch.setenv("HF_TOKEN", token)
    async with download_service(data_dir, hub_endpoint=hub.url) as client:
        assert ((await fetched(client)) / VAE).read_bytes() == WEIGHTS
    assert f"Bearer {token}" in {request.headers.get("authorization") for request in hub.site.requests}
    assert hub.storage.requests
    assert not any("authorization" in request.headers for request in hub.storage.requests)


async def test_what_the_hubs_own_client_has_fetched_is_not_fetched_again(
    data_dir: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hub.token("alice")
    monkeypatch.setenv("HF_TOKEN", token)
    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setattr(constants, name, True)
    api = HfApi(hub.url, token=token)
    async with download_service(data_dir, hub_endpoint=hub.url, hub_cache=tmp_path / "hub") as client:
        assert {file.cached_path for file in (await client.resolve("org/gated")).files} == {""}
        await asyncio.to_thread(api.snapshot_download, "org/gated", cache_dir=tmp_path / "hub")
        sent = sum(request.bytes_sent for request in hub.storage.requests)
        assert sent == len(WEIGHTS)
        cached = {file.path: file.cached_path for file in (await client.resolve("org/gated")).files}
        assert Path(cached[VAE]).read_bytes() == WEIGHTS
        assert ((await fetched(client)) / VAE).read_bytes() == WEIGHTS
    assert sum(request.bytes_sent for request in hub.storage.requests) == sent
