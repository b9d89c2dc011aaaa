"""Models of Civitai from end to end: both services, real sockets, a server that speaks Civitai's API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.download.v1 import download_pb2, resolve_pb2
from modelkeep.download.v1 import download_service_pb2 as download_api
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep_common import logs
from support.civitai import LOG_IN, TOKEN, Civitai, File, Model, Version
from support.downloads import DownloadClient, downloads_beside
from support.installs import InstallClient, install_service

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
PAUSED = install_pb2.INSTALL_STATE_PAUSED
ERROR = install_pb2.INSTALL_STATE_ERROR
FETCHED = download_pb2.DOWNLOAD_STATE_COMPLETED
LATER = "2999-01-01T00:00:00.000Z"
PICTURE = "https://image.example/3.jpeg"


@pytest.fixture
def log_file(data_dir: Path) -> Iterator[Path]:
    path = data_dir / "all.log"
    logs.configure("install", level="DEBUG", file=path)
    yield path
    logs.shutdown()


@pytest.fixture
async def service(data_dir: Path, site: Civitai, log_file: Path) -> AsyncIterator[InstallClient]:
    async with (
        downloads_beside(data_dir, civitai_endpoint=site.endpoint, max_attempts=2) as address,
        install_service(data_dir, download_address=address) as client,
    ):
        yield client


@pytest.fixture
async def downloads(service: InstallClient) -> AsyncIterator[DownloadClient]:
    """The same DownloadService, called by itself."""
    async with grpc.aio.insecure_channel(service.download_address) as channel:
        yield DownloadClient(channel, service.models.parent / "downloads")


def ink(site: Civitai, lora: bytes, **fields: Any) -> tuple[Model, Version]:
    """A LoRA with all that a page tells."""
    version = Version(
        "v1.0",
        [File("ink.safetensors", lora)],
        base="SD 1.5",
        trained_words=["inkpaper, wet ink"],
        images=[{"url": PICTURE, "nsfwLevel": 1, "type": "image"}],
        **fields,
    )
    return site.add(Model("Ink", [version], type="LORA")), version


def request_of(source: str, *, how: str = "remote", **fields: Any) -> pb.ImportModelRequest:
    named = {"remote": resolve_pb2.RemoteSource(source=source)} if how == "remote" else {"url": source}
    return pb.ImportModelRequest(source=install_pb2.InstallSource(**named), **fields)


async def submit(service: InstallClient, source: str, **fields: Any) -> install_pb2.Install:
    answer: pb.ImportModelResponse = await service.stub.ImportModel(request_of(source, **fields))
    return answer.install


async def install(service: InstallClient, source: str, **fields: Any) -> install_pb2.Install:
    return await service.ended(await submit(service, source, **fields))


async def nowhere(secret: str, data_dir: Path, service: InstallClient, downloads: DownloadClient) -> None:
    """The secret is in no file of the services (rows, events, logs), and in no list or watch of theirs."""
    for path in data_dir.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    installs = await service.stub.ListInstalls(pb.ListInstallsRequest())
    fetched = await downloads.stub.ListDownloads(download_api.ListDownloadsRequest())
    assert installs.installs or fetched.downloads
    assert secret not in f"{installs} {fetched}"
    watches = (
        service.stub.WatchInstalls(pb.WatchInstallsRequest()),
        downloads.stub.WatchDownloads(download_api.WatchDownloadsRequest()),
    )
    for watch in watches:
        seen = [str(await watch.read()) for _ in range(2)]
        watch.cancel()
        assert secret not in "".join(seen)


SPELLINGS = {
    "page": "https://civitai.com/models/{model}",
    "page of a version": "https://civitai.com/models/{model}/ink?modelVersionId={version}",
    "link": "https://civitai.com/api/download/models/{version}?type=Model&format=SafeTensor",
    "link with a token": "https://civitai.com/api/download/models/{version}?token={token}",
    "short": "civitai:{model}@{version}",
}


@pytest.mark.parametrize(
    ("spelling", "how"),
    [
        *((spelling, "remote") for spelling in SPELLINGS),
        ("page of a version", "url"),
        ("link with a token", "url"),
    ],
)
async def test_a_model_of_civitai_becomes_a_registered_model_with_all_that_its_page_says(
    service: InstallClient,
    downloads: DownloadClient,
    site: Civitai,
    lora: bytes,
    data_dir: Path,
    spelling: str,
    how: str,
) -> None:
    model, version = ink(site, lora, needs_login="token" in spelling)
    source = SPELLINGS[spelling].format(model=model.id, version=version.id, token=TOKEN)
    job = await install(service, source, how=how)
    assert (job.state, job.error.message) == (COMPLETED, "")
    assert (job.plan.revision, job.plan.is_folder) == (str(version.id), False)
    assert job.local_path == str(service.models / job.model_key / "ink.safetensors")
    record = await service.model(job.model_key)
    assert record.name == "Ink – v1.0"
    assert list(record.trigger_phrases) == ["inkpaper", "wet ink"]
    assert record.license.startswith("allowCommercialUse=Image;allowCommercialUse=Sell;")
    assert {"base model", "art"} <= set(record.tags)
    assert record.preview_url == PICTURE
    assert record.source_url == record.source
    assert record.description == "Paints everything."
    assert record.source == f"https://civitai.com/models/{model.id}?modelVersionId={version.id}"
    assert record.source_type == taxonomy_pb2.MODEL_SOURCE_TYPE_CIVITAI
    assert (record.type, record.base) == (taxonomy_pb2.MODEL_TYPE_LORA, "sd-1")
    [file] = await service.digested(job.model_key)
    assert (file.sha256, file.digest_state) == (
        hashlib.sha256(lora).hexdigest(),
        model_pb2.DIGEST_STATE_VERIFIED,
    )
    assert service.litter() == []
    assert not any("authorization" in request.headers for request in site.storage.requests)
    await nowhere(TOKEN, data_dir, service, downloads)
    again = await install(service, f"civitai:{model.id}@{version.id}", access_token=TOKEN)
    assert (again.state, again.installed_already, again.model_key) == (COMPLETED, True, job.model_key)


@pytest.mark.parametrize("refusal", ["login", "early access"])
async def test_what_the_site_refuses_pauses_the_job_and_a_token_lets_it_go_on(
    service: InstallClient,
    downloads: DownloadClient,
    site: Civitai,
    lora: bytes,
    data_dir: Path,
    refusal: str,
) -> None:
    early = LATER if refusal == "early access" else None
    model, version = ink(site, lora, needs_login=refusal == "login", early_until=early)
    source = f"https://civitai.com/models/{model.id}?modelVersionId={version.id}"
    job = await submit(service, source)
    waiting = await service.until(job, lambda job: job.state == PAUSED)
    if early:
        assert (waiting.error.reason, waiting.error.metadata["deadline"]) == ("EARLY_ACCESS", LATER)
        site.paid.add(version.id)
    else:
        assert (waiting.error.reason, waiting.error.metadata["said"]) == ("TOKEN_REQUIRED", LOG_IN)
    again = await submit(service, source, access_token=TOKEN)
    assert again.id == job.id
    done = await service.ended(job)
    assert (done.state, done.error.message) == (COMPLETED, "")
    assert (await service.model(done.model_key)).source == source
    assert not any("authorization" in request.headers for request in site.storage.requests)
    await nowhere(TOKEN, data_dir, service, downloads)


@pytest.mark.parametrize("refusal", ["rejected", "archived", "none"])
async def test_what_no_token_helps_against_is_told_as_what_it_is(
    service: InstallClient,
    downloads: DownloadClient,
    site: Civitai,
    lora: bytes,
    data_dir: Path,
    refusal: str,
) -> None:
    model, version = ink(site, lora, needs_login=True)
    if refusal == "rejected":
        job = await submit(service, f"civitai:{model.id}@{version.id}", access_token="not-the-key-98765")
        job = await service.until(job, lambda job: job.state == PAUSED)
        assert job.error.reason == "TOKEN_REJECTED"
        await nowhere("not-the-key-98765", data_dir, service, downloads)
        return
    if refusal == "archived":
        model.mode = "Archived"
    source = f"civitai:{model.id}" if refusal == "archived" else "civitai:999999"
    job = await install(service, source)
    reason = "SOURCE_DISABLED" if refusal == "archived" else "SOURCE_NOT_FOUND"
    assert (job.state, job.error.reason) == (ERROR, reason)
    assert service.litter() == []
    assert await service.models_count() == 0


async def test_what_the_caller_says_wins_over_the_page(
    service: InstallClient, site: Civitai, lora: bytes
) -> None:
    model, _ = ink(site, lora)
    overrides = install_pb2.ModelOverrides(name="Mine", description="My own.")
    job = await install(service, f"civitai:{model.id}", overrides=overrides)
    assert job.state == COMPLETED, job.error
    record = await service.model(job.model_key)
    assert (record.name, record.description) == ("Mine", "My own.")
    assert list(record.trigger_phrases) == ["inkpaper", "wet ink"]


# ---- downloads ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_download_of_it_brings_the_version_that_was_looked_up(
    service: InstallClient,
    downloads: DownloadClient,
    site: Civitai,
    lora: bytes,
    data_dir: Path,
    spelling: str,
) -> None:
    model, version = ink(site, lora, needs_login="token" in spelling)
    source = SPELLINGS[spelling].format(model=model.id, version=version.id, token=TOKEN)
    job = await downloads.run(source=download_pb2.DownloadSource(remote={"source": source}))
    assert (job.state, job.error.message) == (FETCHED, "")
    assert Path(job.path).name == "ink.safetensors"
    assert Path(job.path).read_bytes() == lora
    assert (job.source.remote.revision, job.verified) == (str(version.id), True)
    await nowhere(TOKEN, data_dir, service, downloads)


@pytest.mark.parametrize("refusal", ["login", "early access"])
async def test_a_download_that_is_refused_says_why_and_one_with_a_token_arrives(
    service: InstallClient,
    downloads: DownloadClient,
    site: Civitai,
    lora: bytes,
    data_dir: Path,
    refusal: str,
) -> None:
    early = LATER if refusal == "early access" else None
    model, version = ink(site, lora, needs_login=refusal == "login", early_until=early)
    wanted = download_pb2.DownloadSource(remote={"source": f"civitai:{model.id}@{version.id}"})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await downloads.create(source=wanted)
    trailing = json.dumps({key: str(value) for key, value in raised.value.trailing_metadata() or ()})
    assert ("EARLY_ACCESS" if early else "TOKEN_REQUIRED") in trailing
    site.paid.add(version.id)
    job = await downloads.run(source=wanted, access_token=TOKEN)
    assert (job.state, job.error.message) == (FETCHED, "")
    assert Path(job.path).read_bytes() == lora
    await nowhere(TOKEN, data_dir, service, downloads)
