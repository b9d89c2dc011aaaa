"""InstallService with real peers: what is installed already is said, and not installed again in silence."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from support.downloads import downloads_beside
from support.failures import fails
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, install_service, small_lora
from support.modelshapes import table, write_safetensors
from support.waiting import until

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
ERROR = install_pb2.INSTALL_STATE_ERROR
NEVER, SAME_CONTENT = install_pb2.REUSE_NEVER, install_pb2.REUSE_SAME_CONTENT


@pytest.fixture
def http() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
async def service(data_dir: Path) -> AsyncIterator[InstallClient]:
    async with (
        downloads_beside(data_dir, max_attempts=2) as address,
        install_service(data_dir, download_address=address) as client,
    ):
        yield client


def vae_folder(path: Path) -> Path:
    """A small folder of several files."""
    small = {name: shape for name, shape in table("vae.diffusers").items() if "conv_in" in name}
    write_safetensors(path / "diffusion_pytorch_model.safetensors", small)
    (path / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.18215}')
    return path


async def check_was_there(
    service: InstallClient, job: install_pb2.Install, key: str, models: int = 1
) -> None:
    """The job ended with a model that was there, which is as it was, and left nothing."""
    assert job.state == COMPLETED, job.error
    assert (job.installed_already, job.model_key) == (True, key)
    now = await service.model(key)  # its digests may have come since
    assert (job.model.key, job.model.name, job.model.path) == (key, now.name, now.path)
    assert Path(job.local_path).exists()
    assert await service.models_count() == models
    await until(lambda: service.litter() == [])


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_a_path_that_is_installed_ends_with_its_model(
    service: InstallClient, source: Path, inplace: bool, kind: str
) -> None:
    path = vae_folder(source / "vae") if kind == "folder" else small_lora(source / "style.safetensors")
    first = await service.install(path, inplace=inplace)
    assert (first.state, first.installed_already) == (COMPLETED, False), first.error
    again = await service.install(path, inplace=inplace, overrides={"name": "other"})
    await check_was_there(service, again, first.model_key)
    assert again.model.name == first.model.name
    assert again.id != first.id


async def test_a_path_under_another_name_is_the_same_path(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "style.safetensors")
    (source / "link.safetensors").symlink_to(path)
    first = await service.install(path)
    await check_was_there(service, await service.install(source / "link.safetensors"), first.model_key)
    linked = small_lora(source / "other.safetensors", base="sdxl")
    (source / "first.safetensors").symlink_to(linked)
    by_link = await service.install(source / "first.safetensors")
    await check_was_there(service, await service.install(linked), by_link.model_key, models=2)
    copied = await service.install(path, inplace=False)
    assert (copied.state, copied.installed_already) == (COMPLETED, False)
    assert list(copied.same_content_keys) == [first.model_key]
    placed = Path(copied.local_path)
    await check_was_there(service, await service.install(placed), copied.model_key, models=3)


async def test_one_path_by_two_names_at_once_becomes_one_model(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "style.safetensors")
    links = [source / f"{n}.safetensors" for n in range(4)]
    for link in links:
        link.symlink_to(path)
    jobs = [await service.submit(name) for name in (path, *links)]
    ended = [await service.ended(job) for job in jobs]
    assert [job.state for job in ended] == [COMPLETED] * 5, ended
    assert len({job.model_key for job in ended}) == 1
    assert await service.models_count() == 1


async def test_a_path_whose_file_changed_since_is_refused_with_advice_and_its_record_stays(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "style.safetensors")
    first = await service.install(path)
    small_lora(path, base="sdxl")
    job = await service.install(path)
    assert (job.state, job.error.reason) == (ERROR, "DUPLICATE_PATH")
    assert job.error.metadata["key"] == first.model_key
    assert first.model_key in job.error.metadata["remedy"]
    assert await service.models_count() == 1


@pytest.mark.parametrize("how", ["touched", "put back"])
@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_a_path_whose_times_alone_changed_is_its_model_which_gets_the_new_times(
    service: InstallClient, source: Path, kind: str, how: str
) -> None:
    path = vae_folder(source / "vae") if kind == "folder" else small_lora(source / "style.safetensors")
    first = await service.install(path)
    before = await service.digested(first.model_key)
    files = [path] if path.is_file() else list(path.iterdir())
    for file in files:
        content = file.read_bytes()
        if how == "put back":
            file.unlink()
            file.write_bytes(content)
        os.utime(file, (1e9, 1e9))
    told = await service.submit(path, validate_only=True)
    assert (told.installed_already, told.model_key) == (True, first.model_key)
    await check_was_there(service, await service.install(path), first.model_key)

    async def times() -> set[int]:
        return {file.modify_time.seconds for file in await service.files(first.model_key)}

    async with asyncio.timeout(15):
        while await times() != {10**9}:  # noqa: ASYNC110  the record is on the other side of a socket
            await asyncio.sleep(0.02)
    after = await service.digested(first.model_key)
    assert [file.sha256 for file in after] == [file.sha256 for file in before]
    assert (await service.install(path)).installed_already


async def test_a_copy_of_what_changed_since_is_another_model(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "style.safetensors")
    first = await service.install(path, inplace=False)
    small_lora(path, base="sdxl")
    second = await service.install(path, inplace=False)
    assert (second.state, second.installed_already) == (COMPLETED, False), second.error
    assert (second.model.base, list(second.same_content_keys)) == ("sdxl", [])
    assert first.model_key != second.model_key


async def test_an_address_that_is_installed_is_not_asked_again(
    service: InstallClient, http: HttpServer, lora: bytes
) -> None:
    url = http.put("/style.safetensors", Resource(lora))
    first = await service.install(url)
    asked = len(http.requests)
    again = await service.install(url)
    await check_was_there(service, again, first.model_key)
    assert (again.download_id, len(http.requests)) == (0, asked)
    other = await service.install(url, reuse=NEVER)
    assert (other.state, other.installed_already) == (COMPLETED, False), other.error
    assert list(other.same_content_keys) == [first.model_key]
    assert await service.models_count() == 2


async def test_an_address_whose_model_lost_its_files_is_installed_anew(
    service: InstallClient, http: HttpServer, lora: bytes
) -> None:
    url = http.put("/style.safetensors", Resource(lora))
    first = await service.install(url)
    shutil.rmtree(Path(first.local_path).parent)
    second = await service.install(url)
    assert (second.state, second.installed_already) == (COMPLETED, False), second.error
    assert Path(second.local_path).read_bytes() == lora


async def test_an_address_that_hides_which_object_it_names_is_fetched_and_then_told_by_its_content(
    service: InstallClient, http: HttpServer, lora: bytes, tmp_path: Path
) -> None:
    url = http.put("/style.safetensors", Resource(lora))
    first = await service.install(f"{url}?variety=one-of-many")
    same = await service.install(f"{url}?variety=one-of-many")
    await check_was_there(service, same, first.model_key)
    assert same.download_id > 0
    http.put("/style.safetensors", Resource(small_lora(tmp_path / "b.safetensors", base="sdxl").read_bytes()))
    other = await service.install(f"{url}?variety=another-one")
    assert (other.state, other.installed_already) == (COMPLETED, False), other.error
    assert other.model.base == "sdxl"


async def test_an_expected_hash_tells_before_anything_is_fetched_which_model_has_the_content(
    service: InstallClient, http: HttpServer, lora: bytes, source: Path
) -> None:
    (source / "here.safetensors").write_bytes(lora)
    first = await service.install(source / "here.safetensors")
    await service.digested(first.model_key)
    url = http.put("/elsewhere.safetensors", Resource(lora))
    sha256 = hashlib.sha256(lora).hexdigest()
    again = await service.install(url, expected_sha256=sha256, reuse=SAME_CONTENT)
    await check_was_there(service, again, first.model_key)
    assert http.requests == []
    other = await service.install(url, expected_sha256=sha256)
    assert (other.state, other.installed_already) == (COMPLETED, False), other.error
    assert list(other.same_content_keys) == [first.model_key]


@pytest.mark.parametrize("digested", [True, False])
@pytest.mark.parametrize("kind", ["url", "copy", "in place"])
async def test_one_copy_of_the_same_content_is_kept_by_option(
    service: InstallClient, http: HttpServer, lora: bytes, source: Path, kind: str, digested: bool
) -> None:
    (source / "first.safetensors").write_bytes(lora)
    first = await service.install(source / "first.safetensors", inplace=False)
    if digested:
        await service.digested(first.model_key)
    (source / "second.safetensors").write_bytes(lora)
    what = http.put("/s.safetensors", Resource(lora)) if kind == "url" else source / "second.safetensors"
    fields = {} if kind == "url" else {"inplace": kind == "in place"}
    again = await service.install(what, reuse=SAME_CONTENT, **fields)
    await check_was_there(service, again, first.model_key)
    assert (source / "second.safetensors").exists()
    second = await service.install(what, **fields)
    assert (second.installed_already, list(second.same_content_keys)) == (False, [first.model_key])


async def test_equal_samples_are_no_proof_of_equal_content(service: InstallClient, source: Path) -> None:
    path = small_lora(source / "a.safetensors")
    other = source / "b.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # between the samples
    other.write_bytes(content)
    first = await service.install(path)
    second = await service.install(other, reuse=SAME_CONTENT)
    assert (second.state, second.installed_already) == (COMPLETED, False), second.error
    assert second.model.current_hash == first.model.current_hash
    assert list(second.same_content_keys) in ([], [first.model_key])


async def test_a_model_that_has_the_content_as_one_file_of_many_is_not_the_same(
    service: InstallClient, source: Path, http: HttpServer
) -> None:
    folder = vae_folder(source / "vae")
    first = await service.install(folder)
    await service.digested(first.model_key)
    part = next(folder.glob("*.safetensors"))
    sha256 = hashlib.sha256(part.read_bytes()).hexdigest()
    url = http.put("/vae.safetensors", Resource(part.read_bytes()))
    job = await service.install(url, expected_sha256=sha256, reuse=SAME_CONTENT)
    assert not job.installed_already
    assert list(job.same_content_keys) == []


async def test_a_job_under_way_is_not_joined_by_one_that_would_make_another_model(
    service: InstallClient, http: HttpServer, lora: bytes
) -> None:
    url = http.put("/slow.safetensors", Resource(lora, rate=len(lora)))
    job = await service.submit(url)
    with fails(code="ALREADY_EXISTS", reason="INSTALL_IN_PROGRESS"):
        await service.submit(url, reuse=NEVER)
    assert (await service.submit(url)).id == job.id
    await service.ended(job)
