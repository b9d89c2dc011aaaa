"""InstallService with real peers and a server that speaks Hugging Face's API: repositories become models."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.download.v1.resolve_pb2 import RemoteSource
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from support.downloads import downloads_beside
from support.failures import refused
from support.httpserver import Request, Resource, Slow
from support.hub import File, Hub, Repository, files_of
from support.installs import InstallClient, install_beside, install_service, records_beside
from support.tinymodels import save_pipeline, vae

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
PAUSED = install_pb2.INSTALL_STATE_PAUSED
ERROR = install_pb2.INSTALL_STATE_ERROR
VERIFIED, COMPUTED = model_pb2.DIGEST_STATE_VERIFIED, model_pb2.DIGEST_STATE_COMPUTED
WEIGHTS = "pytorch_lora_weights.safetensors"
CARD = """---
license: openrail++
tags: [ink, lora]
instance_prompt: inkpaper
---
# Ink

A **style** of ink on paper, drawn by hand.
"""
PIPELINE_OF_PICKLES = {
    "model_index.json": b"""{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"],
        "vae": ["diffusers", "X"], "safety_checker": ["stable_diffusion", "X"]}""",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.bin": b"x" * 9,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"x" * 9,
    "safety_checker/config.json": b"{}",
    "safety_checker/pytorch_model.bin": b"x" * 9,
}


@pytest.fixture
async def service(data_dir: Path, hub: Hub) -> AsyncIterator[InstallClient]:
    async with (
        downloads_beside(data_dir, hub_endpoint=hub.url, max_attempts=2) as address,
        install_service(data_dir, download_address=address, hub_mirrors=(hub.url[7:],)) as client,
    ):
        yield client


def request_of(source: str, *, fields: dict[str, Any] | None = None, **parts: str) -> pb.ImportModelRequest:
    remote = RemoteSource(source=source, **parts)
    return pb.ImportModelRequest(source=install_pb2.InstallSource(remote=remote), **(fields or {}))


async def submit(service: InstallClient, source: str, **kwargs: Any) -> install_pb2.Install:
    answer: pb.ImportModelResponse = await service.stub.ImportModel(request_of(source, **kwargs))
    return answer.install


async def install(service: InstallClient, source: str, **kwargs: Any) -> install_pb2.Install:
    return await service.ended(await submit(service, source, **kwargs))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def served(hub: Hub) -> int:
    """Bytes of large files that were fetched."""
    return sum(request.bytes_sent for request in hub.storage.requests)


def folder(lora: bytes, **more: bytes | File) -> dict[str, bytes | File]:
    return {"README.md": CARD.encode(), WEIGHTS: lora, **more}


# ---- what becomes of a repository -------------------------------------------------------------------------
@pytest.mark.timeout(120)
async def test_a_diffusers_repository_becomes_a_registered_model_of_one_revision(
    service: InstallClient, hub: Hub, tmp_path: Path
) -> None:
    saved = files_of(save_pipeline(tmp_path / "tiny-sd"))
    repository = hub.repository("org/tiny-sd", {**saved, "README.md": CARD.encode(), "extra.ckpt": b"x" * 99})
    job = await service.ended(await submit(service, "org/tiny-sd"), timeout=60)
    assert (job.state, job.error.message) == (COMPLETED, "")
    assert (job.plan.revision, len(job.plan.files), job.plan.is_folder) == (repository.sha, 0, True)
    model = await service.model(job.model_key)
    assert (model.name, model.source, model.license) == ("tiny-sd", "org/tiny-sd", "openrail++")
    assert (model.type, model.source_type) == (
        taxonomy_pb2.MODEL_TYPE_MAIN,
        taxonomy_pb2.MODEL_SOURCE_TYPE_HF_REPO_ID,
    )
    assert model.description.startswith("A style of ink on paper")
    assert model.source_url.endswith("/org/tiny-sd")
    home = service.models / job.model_key / "tiny-sd"
    assert job.local_path == str(home)
    files = await service.digested(job.model_key)
    assert "unet/diffusion_pytorch_model.safetensors" in [file.path for file in files]
    assert "extra.ckpt" not in [file.path for file in files]
    for file in files:
        data = (home / file.path).read_bytes()
        assert data == saved[file.path].read_bytes()
        assert (file.sha256, bool(file.blake3)) == (sha256(data), True)
        is_large = file.path.endswith(".safetensors")
        assert file.digest_state == (VERIFIED if is_large else COMPUTED), file.path
    assert job.progress.bytes_done == job.progress.bytes_total == sum(file.size_bytes for file in files)
    assert service.litter() == []


@pytest.mark.timeout(120)
async def test_the_files_of_a_model_are_downloaded_side_by_side(
    service: InstallClient, hub: Hub, tmp_path: Path
) -> None:
    hub.repository("org/tiny-sd", files_of(save_pipeline(tmp_path / "tiny-sd")))
    # UNet, VAE and text encoder: none gets a byte before all three are asked for
    together, seen, serve = threading.Barrier(3), set[str](), hub.storage.route
    assert serve is not None

    def serve_together(request: Request) -> Resource | None:
        path = request.path.partition("?")[0]
        if path not in seen:
            seen.add(path)
            together.wait(timeout=20)
        return serve(request)

    hub.storage.route = serve_together
    job = await service.ended(await submit(service, "org/tiny-sd"), timeout=60)
    assert (job.state, job.error.message) == (COMPLETED, "")
    assert (len(seen), together.broken) == (3, False)


async def test_the_metadata_of_the_source_goes_into_the_record(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/ink", folder(lora))
    job = await install(service, "https://huggingface.co/org/ink")
    assert job.state == COMPLETED, job.error
    model = await service.model(job.model_key)
    assert (model.name, model.base, model.license) == ("ink", "sd-1", "openrail++")
    assert list(model.trigger_phrases) == ["inkpaper"]
    assert "ink" in model.tags


async def test_variant_and_subfolder_choose_and_are_told(
    service: InstallClient, hub: Hub, tmp_path: Path
) -> None:
    small = vae(widths=(32, 32, 32, 32))
    small.save_pretrained(tmp_path / "vae")
    small.half().save_pretrained(tmp_path / "vae", variant="fp16")
    files = {f"vae/{path.name}": path for path in (tmp_path / "vae").iterdir()}
    hub.repository("org/sd", {**files, "unet/config.json": b"{}"})
    half = await install(service, "org/sd:vae", variant="fp16")
    assert half.state == COMPLETED, half.error
    assert (half.source.remote.source, half.source.remote.subfolder) == ("org/sd", "vae")
    assert (half.source.remote.variant, half.plan.variant) == ("fp16", "fp16")
    listed = [file.path for file in await service.files(half.model_key)]
    assert listed == ["config.json", "diffusion_pytorch_model.fp16.safetensors"]
    # in full precision it is another model, and the argument is the same as what stands behind the colon
    full = await install(service, "org/sd", subfolder="vae")
    assert (full.state, full.installed_already) == (COMPLETED, False)
    assert full.model_key != half.model_key
    again = await install(service, "org/sd:vae", subfolder="unet")
    assert (again.installed_already, again.model_key) == (True, full.model_key)


@pytest.mark.parametrize(
    ("files", "pickle"),
    [
        ({"ink.ckpt": b"x" * 9}, "ink.ckpt"),
        ({"config.json": b'{"_class_name": "AutoencoderKL"}', "model.bin": b"x" * 9}, "model.bin"),
        (PIPELINE_OF_PICKLES, "unet/diffusion_pytorch_model.bin"),
    ],
    ids=["file", "component", "pipeline"],
)
async def test_pickles_alone_are_refused_before_a_byte_is_fetched(
    service: InstallClient, hub: Hub, files: dict[str, bytes], pickle: str
) -> None:
    hub.repository("org/old", files)
    job = await install(service, "org/old")
    assert (job.state, job.error.reason) == (ERROR, "UNSAFE_FORMAT")
    assert (job.error.metadata["path"], job.error.metadata["format"]) == (pickle, f".{pickle.split('.')[-1]}")
    assert (job.download_id, served(hub)) == (0, 0)
    with refused("UNSAFE_FORMAT"):
        await submit(service, "org/old", fields={"validate_only": True})


async def test_where_the_caller_says_the_type_the_bytes_decide_whether_it_is_a_pickle(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/named", {"ink.pt": lora})
    hub.repository("org/pickled", {"pen.pt": b"\x80\x02" + b"x" * 99})
    said = {"overrides": install_pb2.ModelOverrides(type=taxonomy_pb2.MODEL_TYPE_LORA)}
    job = await install(service, "org/named", fields=said)
    assert job.state == COMPLETED, job.error
    job = await install(service, "org/pickled", fields=said)
    assert (job.state, job.error.reason) == (ERROR, "UNSAFE_FORMAT")


async def test_a_repository_that_was_renamed_is_installed_already_under_its_old_name(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    hub.repository("old/ink", {WEIGHTS: lora})
    first = await install(service, "old/ink")
    hub.rename("old/ink", "new/ink")
    again = await install(service, "old/ink")
    assert (again.state, again.installed_already, again.model_key) == (COMPLETED, True, first.model_key)
    assert again.plan.source == "new/ink"


@pytest.mark.parametrize("how", ["written", "address", "url"])
async def test_a_single_file_of_a_repository_keeps_its_name(
    service: InstallClient, hub: Hub, lora: bytes, how: str
) -> None:
    hub.repository("org/loras", {"a/ink.safetensors": lora, "b/pen.safetensors": lora + b" " * 8})
    address = f"{hub.url}/org/loras/resolve/main/a/ink.safetensors"
    if how == "url":
        source = install_pb2.InstallSource(url=address)
        answer = await service.stub.ImportModel(pb.ImportModelRequest(source=source))
        job = await service.ended(answer.install)
    else:
        job = await install(service, "org/loras:a/ink.safetensors" if how == "written" else address)
    assert job.state == COMPLETED, job.error
    assert job.local_path == str(service.models / job.model_key / "ink.safetensors")
    [file] = await service.digested(job.model_key)
    assert (file.path, file.sha256, file.digest_state) == ("ink.safetensors", sha256(lora), VERIFIED)
    model = await service.model(job.model_key)
    assert (model.name, model.source_type) == ("ink", taxonomy_pb2.MODEL_SOURCE_TYPE_HF_REPO_ID)


async def test_a_dry_run_tells_the_plan_and_fetches_no_file(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    repository = hub.repository("org/ink", folder(lora))
    answer = await service.stub.ImportModel(request_of("org/ink", fields={"validate_only": True}))
    assert (answer.install.id, answer.install.local_path) == (0, str(service.models))
    assert answer.plan.revision == repository.sha
    sizes = {file.path: file.size_bytes for file in answer.plan.files}
    assert sizes[WEIGHTS] == len(lora)
    assert answer.install.progress.bytes_total == sum(sizes.values())
    assert served(hub) == 0
    assert list((await service.stub.ListInstalls(pb.ListInstallsRequest())).installs) == []
    with pytest.raises(grpc.aio.AioRpcError, match="org/none"):
        await service.stub.ImportModel(request_of("org/none", fields={"validate_only": True}))


# ---- what is here already ---------------------------------------------------------------------------------
async def test_the_same_again_fetches_nothing_and_a_new_commit_is_another_model(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    repository = hub.repository("org/ink", folder(lora))
    first = await install(service, "org/ink")
    assert first.state == COMPLETED, first.error
    fetched = served(hub)
    same = await install(service, "hf://org/ink")
    assert (same.state, same.installed_already, same.model_key) == (COMPLETED, True, first.model_key)
    assert (same.download_id, served(hub)) == (0, fetched)

    other = bytearray(lora)
    other[-1] ^= 1
    repository.commit(folder(bytes(other)))
    newer = await install(service, "org/ink")
    assert (newer.state, newer.installed_already) == (COMPLETED, False)
    assert newer.plan.revision == repository.sha != first.plan.revision
    old = await install(service, "org/ink", revision=first.plan.revision)
    assert old.state == COMPLETED, old.error


async def test_two_imports_at_once_are_one_job_unless_their_variant_differs(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/ink", folder(lora))
    hub.fail_storage(WEIGHTS, Slow(len(lora)))
    first, second = [await submit(service, text) for text in ("org/ink", "https://huggingface.co/org/ink")]
    assert first.id == second.id
    with pytest.raises(grpc.aio.AioRpcError, match="other arguments"):
        await submit(service, "org/ink", variant="fp16")
    assert (await service.ended(first)).state == COMPLETED


# ---- what is in the way -----------------------------------------------------------------------------------
async def test_a_gated_repository_pauses_the_job_and_a_token_lets_it_go_on(
    service: InstallClient, hub: Hub, lora: bytes, data_dir: Path
) -> None:
    hub.repository("org/gated", folder(lora), gated="auto").grant("alice")
    job = await submit(service, "org/gated")
    waiting = await service.until(job, lambda job: job.state == PAUSED)
    assert waiting.error.reason in ("TOKEN_REQUIRED", "LICENSE_NOT_ACCEPTED")
    token = hub.token("alice")
    again = await submit(service, "org/gated", fields={"access_token": token})
    assert again.id == job.id
    done = await service.ended(job)
    assert (done.state, done.error.message) == (COMPLETED, "")
    assert not any("authorization" in request.headers for request in hub.storage.requests)
    kept = b"".join(path.read_bytes() for path in data_dir.rglob("*.db*"))
    assert token.encode() not in kept


async def test_a_limit_of_the_hubs_is_told_and_waited_for(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/ink", folder(lora))
    hub.limit("api", left=0, resets_s=8)
    job = await submit(service, "org/ink")
    waiting = await service.until(job, lambda job: job.HasField("error"))
    assert (waiting.stage, waiting.error.reason) == (install_pb2.INSTALL_STAGE_RESOLVING, "RATE_LIMITED")
    assert waiting.error.HasField("retry_time")
    assert (await service.ended(job)).state == COMPLETED


async def test_a_repository_of_several_models_says_which_there_are(
    service: InstallClient, hub: Hub, lora: bytes
) -> None:
    hub.repository("org/loras", {"ink.safetensors": lora, "pen.safetensors": lora + b" " * 8})
    job = await install(service, "org/loras")
    assert (job.state, job.error.reason) == (ERROR, "AMBIGUOUS_SOURCE")
    assert "ink.safetensors" in job.error.metadata["choices"]
    assert service.litter() == []


async def test_a_repository_that_is_not_there_ends_the_job(service: InstallClient, hub: Hub) -> None:
    job = await install(service, "org/none")
    assert (job.state, job.error.reason) == (ERROR, "SOURCE_NOT_FOUND")


# ---- restarts ---------------------------------------------------------------------------------------------
async def test_a_restart_in_the_middle_goes_on_with_the_revision_that_was_looked_up(
    data_dir: Path, hub: Hub, lora: bytes
) -> None:
    (data_dir.parent / "import").mkdir(exist_ok=True)
    repository: Repository = hub.repository("org/ink", folder(lora))
    hub.fail_storage(WEIGHTS, Slow(len(lora) // 2))
    async with (
        downloads_beside(data_dir, hub_endpoint=hub.url) as downloads,
        records_beside(data_dir) as (records, address),
    ):
        async with install_beside(data_dir, records, address, downloads) as service:
            job = await submit(service, "org/ink")
            before = await service.until(job, lambda job: job.progress.bytes_done > 0)
        repository.commit({"README.md": b"# Another"})
        async with install_beside(data_dir, records, address, downloads) as service:
            done = await service.ended(job)
            assert (done.state, done.error.message) == (COMPLETED, "")
            assert done.plan.revision == before.plan.revision
            assert await service.models_count() == 1
            assert await asyncio.to_thread(Path(done.local_path).read_bytes) == lora
            assert service.litter() == []
