"""ResolveSource for repositories of Hugging Face, over real sockets, against a server that speaks its API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import download_pb2, resolve_pb2
from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import Status
from support.hub import File, Hub, Repository, Sparse

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
CARD = """---
license: other
license_name: sharp-licence
license_link: LICENSE.md
base_model: org/base
instance_prompt: sks dog
tags: [text-to-image, lora]
pipeline_tag: text-to-image
widget:
  - text: a dog
    output: {url: images/dog.png}
---
# Sharp things

<p align="center"><img src="https://img.shields.io/badge/x.svg"></p>

A **model** of [sharp](https://example.com) things that were drawn by hand.

## Use

```python
pipeline()
```
"""
WEIGHTS = b"w" * 3000


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(page_size=7) as started:
        yield started


@pytest.fixture
async def client(data_dir: Path, hub: Hub) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, hub_endpoint=f"{hub.url}/") as service:
        yield service


def pipeline(hub: Hub, name: str = "org/model", **options: object) -> Repository:
    """A pipeline with what lies beside the weights in real ones."""
    files: dict[str, bytes | File] = {
        "README.md": CARD.encode(),
        "LICENSE.md": b"terms",
        "model_index.json": json.dumps(INDEX).encode(),
        "scheduler/scheduler_config.json": b"{}",
        "model.safetensors.old/notes.txt": b"x",
        "all-in-one.safetensors": WEIGHTS * 3,
        "unet/module.py": b"pass",
    }
    for folder in ("unet", "vae"):
        files[f"{folder}/config.json"] = b"{}"
        for name_of in ("safetensors", "fp16.safetensors", "bin"):
            files[f"{folder}/diffusion_pytorch_model.{name_of}"] = WEIGHTS + name_of.encode()
    return hub.repository(name, files, **options)


def paths(plan: resolve_pb2.SourcePlan) -> list[str]:
    return [file.path for file in plan.files]


PIPELINE = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


async def test_a_pipeline_is_planned_with_sizes_hashes_and_a_commit(client: DownloadClient, hub: Hub) -> None:
    repository = pipeline(hub)
    plan = await client.resolve("org/model")
    assert paths(plan) == PIPELINE
    assert (plan.kind, plan.source, plan.name) == (
        resolve_pb2.SOURCE_KIND_HUGGING_FACE,
        "org/model",
        "model",
    )
    assert (plan.revision, plan.is_folder, plan.variant) == (repository.sha, True, "")
    weights = plan.files[3]
    body = WEIGHTS + b"safetensors"
    assert (weights.size_bytes, weights.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert weights.url == f"{hub.url}/org/model/resolve/{repository.sha}/unet/{weights.path[5:]}"
    assert plan.files[2].sha256 == ""
    assert plan.bytes_total == sum(file.size_bytes for file in plan.files)
    assert plan.source_bytes_total > plan.bytes_total * 2
    assert plan.code_files == ["unet/module.py"]
    assert [(c.kind, c.value, c.chosen) for c in plan.choices] == [
        ("variant", "default", True),
        ("variant", "fp16", False),
        ("subfolder", "unet", False),
        ("subfolder", "vae", False),
        ("file", "all-in-one.safetensors", False),
    ]
    assert plan.choices[2].source == "org/model:unet"
    assert len([r for r in hub.site.requests if "/tree/" in r.path]) > 1, "the listing has pages"


async def test_what_is_planned_is_what_the_hub_serves(client: DownloadClient, hub: Hub) -> None:
    pipeline(hub)
    plan = await client.resolve("org/model", variant="fp16")
    assert plan.variant == "fp16"
    files = [
        download_pb2.SourceFile(
            url=file.url, path=file.path, expected_sha256=file.sha256, size_bytes=file.size_bytes
        )
        for file in plan.files
    ]
    source = download_pb2.DownloadSource(files=download_pb2.FileSet(files=files))
    job = await client.run(source=source, destination=str(client.folder / "model"))
    assert job.state == download_pb2.DOWNLOAD_STATE_COMPLETED, job
    there = client.folder / "model"
    assert (
        (there / "vae" / "diffusion_pytorch_model.fp16.safetensors")
        .read_bytes()
        .endswith(b"fp16.safetensors")
    )
    assert not any("authorization" in request.headers for request in hub.storage.requests)


async def test_the_card_becomes_metadata(client: DownloadClient, hub: Hub) -> None:
    repository = pipeline(hub)
    told = (await client.resolve("org/model")).metadata
    assert told.description == "A model of sharp things that were drawn by hand."
    at = f"{hub.url}/org/model/resolve/{repository.sha}"
    assert told.license == f"sharp-licence ({at}/LICENSE.md)"
    assert told.preview_url == f"{at}/images/dog.png"
    assert (told.author, told.base, told.type) == ("org", "org/base", "text-to-image")
    assert list(told.trigger_phrases) == ["sks dog"]
    assert "lora" in told.tags
    assert not [tag for tag in told.tags if tag.startswith(("license:", "base_model:", "region:"))]
    assert told.page_url == f"{hub.url}/org/model"
    assert told.HasField("publish_time")


@pytest.mark.parametrize(
    ("source", "asked", "shown"),
    [
        ("hf:org/model", {}, "org/model"),
        ("hf://org/model:vae", {"subfolder": "unet"}, "org/model:vae"),
        ("org/model", {"subfolder": "vae/"}, "org/model:vae"),
        ("org/model@old", {"revision": "main", "subfolder": "vae"}, "org/model@old:vae"),
        ("org/model", {"revision": "old", "subfolder": "vae"}, "org/model@old:vae"),
        ("https://huggingface.co/org/model/tree/old/vae", {}, "org/model@old:vae"),
        ("https://hf.co/org/model", {}, "org/model"),
        ("{hub}/org/model/tree/main/vae", {}, "org/model:vae"),
    ],
)
async def test_spellings(
    client: DownloadClient, hub: Hub, source: str, asked: dict[str, str], shown: str
) -> None:
    repository = pipeline(hub)
    old = repository.commit({"vae/config.json": b"{}", "vae/model.safetensors": WEIGHTS}, branch="old")
    plan = await client.resolve(source.format(hub=hub.url), **asked)
    assert plan.source == shown
    assert plan.revision == (old if "@old" in shown else repository.sha)
    assert ("model.safetensors" in paths(plan)) == ("@old" in shown)
    assert all(not path.startswith("vae/") for path in paths(plan)) == shown.endswith(":vae")


@pytest.mark.parametrize(
    "source",
    [
        "org/model:unet/diffusion_pytorch_model.bin",
        "https://huggingface.co/org/model/blob/main/unet/diffusion_pytorch_model.bin",
        "https://huggingface.co/org/model/resolve/main/unet/diffusion_pytorch_model.bin?download=true",
        "{hub}/org/model/resolve/main/unet/diffusion_pytorch_model.bin",
    ],
)
async def test_one_file(client: DownloadClient, hub: Hub, source: str) -> None:
    pipeline(hub)
    plan = await client.resolve(source.format(hub=hub.url))
    assert (paths(plan), plan.is_folder) == (["diffusion_pytorch_model.bin"], False)
    assert (plan.source, plan.name) == (
        "org/model:unet/diffusion_pytorch_model.bin",
        "diffusion_pytorch_model",
    )
    assert any("is a pickle" in reason for reason in plan.reasons)


async def test_names_with_blanks_and_signs_are_asked_for_as_they_are(
    client: DownloadClient, hub: Hub
) -> None:
    hub.repository("org/loras", {"my lora #1 (a+b).safetensors": WEIGHTS, "other.safetensors": WEIGHTS})
    with refused("AMBIGUOUS_SOURCE") as error:
        await client.resolve("org/loras")
    address = "https://huggingface.co/org/loras/blob/main/my%20lora%20%231%20%28a%2Bb%29.safetensors"
    assert address in error.metadata["choices"]
    plan = await client.resolve(address)
    assert paths(plan) == ["my lora #1 (a+b).safetensors"]
    job = await client.run(plan.files[0].url, expected_sha256=plan.files[0].sha256)
    assert job.state == download_pb2.DOWNLOAD_STATE_COMPLETED, job


async def test_a_repository_that_has_moved_and_one_without_an_owner(client: DownloadClient, hub: Hub) -> None:
    pipeline(hub, "old/name")
    hub.rename("old/name", "new/name")
    plan = await client.resolve("old/name")
    assert plan.source == "new/name"
    assert "old/name has moved to new/name." in plan.reasons
    assert "/new/name/resolve/" in plan.files[0].url
    hub.repository("gpt2", {"config.json": b"{}", "model.safetensors": WEIGHTS})
    assert (await client.resolve("hf:gpt2")).source == "gpt2"


async def test_unknown_variants_and_what_the_scanners_say(client: DownloadClient, hub: Hub) -> None:
    pipeline(hub)
    with refused("UNKNOWN_VARIANT") as error:
        await client.resolve("org/model", variant="onnx")
    assert error.metadata["available"] == "default; fp16"
    hub.repository("org/bad", {"x.ckpt": File(WEIGHTS, scan="unsafe")})
    with refused("UNSAFE_FORMAT"):
        await client.resolve("org/bad")
    hub.repository("org/odd", {"x.ckpt": File(WEIGHTS, scan="suspicious")})
    assert any("suspicious" in reason for reason in (await client.resolve("org/odd")).reasons)


async def test_what_is_too_large_for_http_is_refused_before_it_is_tried(
    client: DownloadClient, hub: Hub
) -> None:
    hub.repository("org/huge", {"x.safetensors": Sparse(60 * 1000**3), "README.md": b""})
    with refused("XET_ONLY") as error:
        await client.resolve("org/huge")
    assert (error.metadata["path"], error.metadata["size"]) == ("x.safetensors", str(60 * 1000**3))
    assert "hub's own client" in error.remedy


async def test_more_files_than_a_plan_has(data_dir: Path) -> None:
    with Hub(page_size=2000) as wide:
        files: dict[str, bytes | File] = {f"many/{at}.txt": b"" for at in range(10_001)}
        wide.repository("org/many", {**files, "vae/config.json": b"{}", "vae/model.safetensors": WEIGHTS})
        async with download_service(data_dir, hub_endpoint=wide.url) as service:
            with refused("FIELD_INVALID") as error:
                await service.resolve("org/many")
            assert "more than 10,000 files" in f"{error.message} {error.metadata}"
            plan = await service.resolve("org/many:vae")
    assert paths(plan) == ["config.json", "model.safetensors"]
    assert not plan.HasField("source_bytes_total")


async def test_a_private_hub_is_not_asked_without_leave(data_dir: Path, hub: Hub) -> None:
    pipeline(hub)
    async with download_service(data_dir, hub_endpoint=hub.url, allow_private_addresses=False) as client:
        with refused("FORBIDDEN_ADDRESS"):
            await client.resolve("org/model")
    assert not hub.site.requests


async def test_the_variable_names_a_mirror(data_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline(hub)
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    async with download_service(data_dir) as client:
        plan = await client.resolve("https://huggingface.co/org/model")
    assert all(file.url.startswith(f"{hub.url}/org/model/resolve/") for file in plan.files)


async def test_nothing_of_the_hubs_own_client_goes_out(client: DownloadClient, hub: Hub) -> None:
    pipeline(hub)
    await client.resolve("org/model")
    agents = {request.headers.get("user-agent", "") for request in hub.site.requests}
    assert all(agent.startswith("modelkeep/") for agent in agents)
    assert not any("authorization" in request.headers for request in hub.site.requests)


async def test_it_is_tried_again_when_that_may_help(client: DownloadClient, hub: Hub) -> None:
    pipeline(hub)
    hub.fail(r"/api/models/org/model/revision|/api/models/org/model\?", Status(503))
    hub.fail(r"/tree/", Status(500))
    assert paths(await client.resolve("org/model")) == PIPELINE
