"""Secrets in every part of an address: none is on the disk, in an answer, a watch or a log afterwards."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from modelkeep.download.v1 import download_service_pb2 as download_api
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as install_api
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record_api
from modelkeep_common import logs
from support.downloads import DownloadClient, downloads_beside
from support.httpserver import HttpServer, Resource, Status
from support.installs import install_beside, records_beside

#: Where the secret {s} stands in an address on {at}.
PLACES = (
    "http://u:{s}@{at}/m.bin",
    "http://{s}@{at}/m.bin",
    "http://{at}/m.bin?x=1&private_token={s}",
    "http://{at}/m.bin?x-oss-signature={s}&x=1",
    "http://{at}/m.bin?client_secret={s}",
    "http://{at}/m.bin?auth_key={s}",
    "http://{at}/m.bin?pwd={s};sessionid={s}",
    "http://{at}/m.bin?a=1;token={s}",
    "http://{at}/m.bin?to%6ben={s}",
    "http://{at}/m.bin?CODE={s}",
    "http://{at}/m.bin?never-heard-of={s}",
    "http://{at}/m.bin?{s}",
    "http://{at}/m.bin?path=http%3A%2F%2Fu%3A{s}%40h",
    "http://{at}/m.bin;token={s}",
    "http://{at}/token={s}&expires=1/m.bin",
    "http://{at}/m.bin#access_token={s}",
    "http://u:{s}@{at}0000/m.bin",
    "http://{at}/m.bin?token={s}\n",
    "http://{at}\\m.bin?token={s}",
)


class Secrets:
    """Makes secrets that no other text has, and looks for them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.made: dict[str, str] = {}

    def put(self, place: str, at: str) -> str:
        """The address with a new secret in it."""
        secret = f"Zq7x{next(self._numbers):04}kW9v"
        self.made[secret] = place
        return place.format(s=secret, at=at)

    def in_bytes(self, data: bytes) -> set[str]:
        """The places whose secrets are in there."""
        return {place for secret, place in self.made.items() if secret.encode() in data}


@pytest.fixture
def log_file(data_dir: Path) -> Iterator[Path]:
    path = data_dir / "all.log"
    logs.configure("download", level="DEBUG", file=path)
    yield path
    logs.shutdown()


def read_all(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_no_secret_of_an_address_is_left_anywhere(
    data_dir: Path, web: HttpServer, log_file: Path
) -> None:
    secrets = Secrets()
    answers: list[bytes] = []
    at = web.url("/").removeprefix("http://").rstrip("/")
    async with (
        downloads_beside(data_dir, max_attempts=1) as download_address,
        records_beside(data_dir) as (records, record_address),
        install_beside(data_dir, records, record_address, download_address) as installs,
        grpc.aio.insecure_channel(download_address) as channel,
    ):
        downloads = DownloadClient(channel, installs.models.parent / "downloads")
        for number, place in enumerate(PLACES):
            web.put("/m.bin", Resource(b"\x10" * 500, faults=[Status(404)] if number % 2 else []))
            folder = f"{downloads.folder}/{number}/"
            for secret_url in (secrets.put(place, at), secrets.put(place, at)):
                try:
                    job = await downloads.ended(await downloads.create(secret_url, destination=folder))
                    answers.append(job.SerializeToString())
                except grpc.aio.AioRpcError as error:
                    answers.append(str(error.details()).encode() + repr(error.trailing_metadata()).encode())
            overrides = install_pb2.ModelOverrides(source=secrets.put(place, at))
            try:
                install = await installs.install(secrets.put(place, at), overrides=overrides)
                answers.append(install.SerializeToString())
            except grpc.aio.AioRpcError as error:
                answers.append(str(error.details()).encode() + repr(error.trailing_metadata()).encode())
            model = model_pb2.Model(
                name="m",
                type="MODEL_TYPE_VAE",
                format="MODEL_FORMAT_CHECKPOINT",
                base="sd-1",
                path=str(number),
            )
            model.source = secrets.put(place, at)
            made = await records.CreateModel(record_api.CreateModelRequest(model=model))
            change = model_pb2.Model(key=made.model.key, source=secrets.put(place, at))
            changed = await records.UpdateModel(record_api.UpdateModelRequest(model=change))
            answers += [made.SerializeToString(), changed.SerializeToString()]
        for answer in (
            await downloads.stub.ListDownloads(
                download_api.ListDownloadsRequest(all_queues=True, page_size=1000)
            ),
            await installs.stub.ListInstalls(install_api.ListInstallsRequest(page_size=1000)),
            await records.ListModels(record_api.ListModelsRequest(page_size=1000)),
        ):
            answers.append(answer.SerializeToString())
        watch = downloads.stub.WatchDownloads(download_api.WatchDownloadsRequest(all_queues=True))
        async for frame in watch:
            answers.append(frame.SerializeToString())
            if frame.snapshot_complete:
                watch.cancel()
                break
        on_disk = await asyncio.to_thread(read_all, data_dir)
        names = "\n".join(map(str, on_disk)).encode()
    logging.getLogger("modelkeep.test").error("the log is written")
    await asyncio.to_thread(logs.shutdown)
    on_disk |= await asyncio.to_thread(read_all, data_dir)
    assert b"the log is written" in on_disk[log_file]
    assert any(path.name.startswith("install.db") for path in on_disk)
    assert secrets.in_bytes(b"\n".join(answers)) == set()
    assert secrets.in_bytes(names) == set()
    assert {path.name: found for path, data in on_disk.items() if (found := secrets.in_bytes(data))} == {}


async def test_a_record_is_found_by_the_source_that_it_was_made_with(data_dir: Path) -> None:
    source = "https://u:pass1234@host/m.bin?download=true&sig=abcdef"
    async with records_beside(data_dir) as (records, _):
        model = model_pb2.Model(
            name="m",
            type="MODEL_TYPE_VAE",
            format="MODEL_FORMAT_CHECKPOINT",
            base="sd-1",
            path="p",
            source=source,
            preview_url=source,
            source_url=source,
        )
        made = await records.CreateModel(record_api.CreateModelRequest(model=model))
        assert made.model.source == "https://host/m.bin?download=true&sig=REDACTED"
        assert made.model.preview_url == made.model.source_url == made.model.source
        wanted = record_api.ModelFilter(source=source)
        found = await records.ListModels(record_api.ListModelsRequest(filter=wanted))
        assert [model.key for model in found.models] == [made.model.key]
