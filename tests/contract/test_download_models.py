"""Installed models are another service's: downloads put nothing among them and take nothing away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from modelkeep.exceptions import ForbiddenPathException
from modelkeep_common.paths import MARKER, AllowedRoots
from modelkeep_download.engine.places import Places
from support.downloads import DownloadClient, download_service
from support.httpserver import HttpServer, Resource, pattern

BODY = pattern(20_000)
KEY = "f" * 32
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED


@pytest.fixture
def models(data_dir: Path) -> Path:
    """A folder of models with one installed, and an install on its way."""
    folder = data_dir / "models"
    (folder / KEY / "vae").mkdir(parents=True)
    (folder / KEY / "vae" / "weights.bin").write_bytes(b"its own")
    (folder / ".staging" / "7").mkdir(parents=True)
    return folder


@pytest.fixture
async def client(data_dir: Path, models: Path, tmp_path: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, import_roots=(data_dir.parent, tmp_path)) as service:
        yield service


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if MARKER not in path.name}


DESTINATIONS = (
    *("models/", "models/x.bin", "models/new/", f"models/{KEY}/", f"models/{KEY}/vae/x.fp16.bin"),
    *(f"models/{'e' * 32}/x.bin", "models/.staging/", "models/.staging/x.bin", "models/.staging/999/x.bin"),
    *("models/.staging/7/deep/x.bin", "models/.staging/7/deep/", "models/.staging/download-7/data"),
    *("models/.staging/seven/x.bin", "models/.hidden/x.bin", "models/.modelkeep-root.d/x.bin", "models/x.db"),
    *("downloads/../models/y.bin", "downloads/link/x.bin", f"downloads/link/{KEY}/x.bin"),
    *("downloads/../downloads/y.bin", "downloads/.hidden/x.bin", "downloads/.staging/7/x.bin"),
    *("downloads/.modelkeep-root", "record/record.db", "download/x.bin", "run/x", "x.bin", "."),
)


async def test_no_destination_lies_among_the_models(
    client: DownloadClient, web: HttpServer, data_dir: Path, models: Path
) -> None:
    url = web.put("/x.bin", Resource(BODY))
    (client.folder / "link").symlink_to(models)
    before = await asyncio.to_thread(everything, data_dir)
    for destination in DESTINATIONS:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(url, destination=f"{client.folder.parent}/{destination}")
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, destination
    for name in ("a\nb", "a\u202eb", "a\u2028b"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(url, destination=f"{client.folder}/{name}/x.bin")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
    assert await asyncio.to_thread(everything, data_dir) == before
    assert not web.requests


async def test_the_staging_folder_of_an_install_is_filled_for_who_may_install(
    client: DownloadClient, web: HttpServer, data_dir: Path, models: Path
) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY)), destination=f"{models}/.staging/7/")
    assert job.state == COMPLETED, job
    assert Path(job.path).read_bytes() == BODY
    assert sorted(path.name for path in (models / ".staging").iterdir()) == ["7"]

    def refused() -> None:
        roots = AllowedRoots((models,), data_dir=data_dir, models=(models,), setting="download_roots")
        places = Places(roots, roots, Path(models.resolve()))
        assert places.destination(f"{models}/.staging/7/", "", installs=True)[1]
        with pytest.raises(ForbiddenPathException, match="among the installed models"):
            places.destination(f"{models}/.staging/7/", "", installs=False)

    await asyncio.to_thread(refused)


async def test_a_folder_counts_as_the_models_where_the_installer_has_left_its_lock(
    client: DownloadClient, web: HttpServer
) -> None:
    other = client.folder / "other"
    other.mkdir()
    (other / f"{MARKER}.install.lock").touch()
    for destination in (f"{other}/x.bin", f"{other}/{KEY}/x.bin"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.create(web.url("/x.bin"), destination=destination)
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, destination


async def test_a_model_is_copied_and_never_moved_away(client: DownloadClient, models: Path) -> None:
    (client.folder / "link").symlink_to(models / KEY)
    for source in (
        models / KEY,
        models / KEY / "vae",
        models / KEY / "vae" / "weights.bin",
        client.folder / "link",
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.take(source)
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, source
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.take(models / ".staging" / "7", copy=True)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    job = await client.ended(await client.take(models / KEY, copy=True, filename="copied"))
    assert job.state == COMPLETED, job
    assert (models / KEY / "vae" / "weights.bin").read_bytes() == b"its own"
    assert (client.folder / "copied" / "vae" / "weights.bin").read_bytes() == b"its own"


async def test_a_source_whose_folder_became_a_link_to_a_model_is_not_moved(
    client: DownloadClient, models: Path
) -> None:
    inbox = client.folder / "inbox"
    inbox.mkdir()
    (inbox / "weights.bin").write_bytes(BODY)
    job = await client.take(inbox / "weights.bin", start=False, filename="moved.bin")
    (inbox / "weights.bin").unlink()
    inbox.rmdir()
    inbox.symlink_to(models / KEY / "vae")
    await client.stub.StartDownload(pb.StartDownloadRequest(id=job.id))
    assert (await client.ended(job)).state == download_pb2.DOWNLOAD_STATE_ERROR
    assert (models / KEY / "vae" / "weights.bin").read_bytes() == b"its own"
    assert not (client.folder / "moved.bin").exists()


async def test_a_source_with_a_hidden_name_needs_another(client: DownloadClient, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_bytes(BODY)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.take(tmp_path / ".bashrc", copy=True)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    job = await client.ended(await client.take(tmp_path / ".bashrc", copy=True, filename="plain"))
    assert job.state == COMPLETED, job


async def test_what_was_downloaded_is_the_callers_again(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.put("/m.bin", Resource(BODY)))
    assert Path(job.path) == client.folder / "m.bin"
    moved = await client.ended(await client.take(Path(job.path), filename="renamed.bin"))
    assert moved.state == COMPLETED, moved
    assert not Path(job.path).exists()
