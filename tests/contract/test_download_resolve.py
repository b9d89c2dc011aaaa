"""ResolveSource, for addresses and paths: what would be fetched, and nothing is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelkeep.download.v1 import resolve_pb2
from support.downloads import DownloadClient, download_service
from support.failures import refused
from support.httpserver import HttpServer, Resource, Status

HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]}}).encode()
BIG = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4 << 20)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as started:
        yield started


@pytest.fixture
async def client(data_dir: Path, tmp_path: Path) -> AsyncIterator[DownloadClient]:
    (tmp_path / "there").mkdir()
    roots = [tmp_path / "there"]
    async with download_service(data_dir, import_roots=roots) as service:
        yield service


async def test_an_address_tells_name_and_size_and_is_not_fetched(
    client: DownloadClient, server: HttpServer
) -> None:
    server.put("/big?download=true", Resource(BIG))
    plan = await client.resolve(server.url("/big?download=true"))
    assert plan.kind == resolve_pb2.SOURCE_KIND_URL
    assert [(file.path, file.size_bytes) for file in plan.files] == [("big.safetensors", len(BIG))]
    assert (plan.bytes_total, plan.source_bytes_total) == (len(BIG), len(BIG))
    assert server.bytes_served("/big") < 1 << 20


async def test_a_source_that_heeds_no_ranges_is_left_after_the_beginning(
    client: DownloadClient, server: HttpServer
) -> None:
    server.put("/x.safetensors", Resource(BIG, ranges=False))
    plan = await client.resolve(server.url("/x.safetensors"))
    assert plan.bytes_total == len(BIG)


async def test_secrets_of_an_address_are_used_and_not_told(
    client: DownloadClient, server: HttpServer
) -> None:
    server.put("/x.safetensors?token=s3cret-word", Resource(BIG))
    plan = await client.resolve(server.url("/x.safetensors?token=s3cret-word"))
    assert plan.bytes_total == len(BIG)
    assert "s3cret" not in str(plan)
    assert plan.files[0].url.endswith("token=REDACTED")


async def test_a_token_goes_to_the_source(client: DownloadClient, server: HttpServer) -> None:
    server.put("/x.safetensors", Resource(BIG, authorization="Bearer s3cret-word"))
    with refused("TOKEN_REQUIRED"):
        await client.resolve(server.url("/x.safetensors"))
    plan = await client.resolve(server.url("/x.safetensors"), token="s3cret-word")
    assert plan.bytes_total == len(BIG)


async def test_what_passes_is_tried_again_and_what_lasts_is_told(
    client: DownloadClient, server: HttpServer
) -> None:
    server.put("/x.safetensors", Resource(BIG, faults=[Status(503)]))
    assert (await client.resolve(server.url("/x.safetensors"))).bytes_total == len(BIG)
    server.put("/y.safetensors", Resource(BIG, fault_of=lambda request: Status(429, retry_after="100")))
    with refused("UPSTREAM_UNAVAILABLE") as error:
        await client.resolve(server.url("/y.safetensors"))
    assert (error.metadata["status"], error.retry_after) == ("429", 100)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Resource(b"<!DOCTYPE html><html></html>", content_type="text/html"), "NOT_A_MODEL_FILE"),
        (None, "SOURCE_NOT_FOUND"),
    ],
)
async def test_what_is_no_file_is_refused_as_what_it_is(
    client: DownloadClient, server: HttpServer, answer: Resource | None, reason: str
) -> None:
    if answer is not None:
        server.put("/x.safetensors", answer)
    with refused(reason):
        await client.resolve(server.url("/x.safetensors"))


async def test_a_path_tells_its_files(client: DownloadClient, tmp_path: Path) -> None:
    folder = tmp_path / "there" / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "a.safetensors").write_bytes(b"x" * 100)
    for source in (str(folder), f"file://{folder}"):
        plan = await client.resolve(source)
        assert plan.kind == resolve_pb2.SOURCE_KIND_LOCAL_PATH
        assert {file.path: file.size_bytes for file in plan.files} == {
            "a.safetensors": 100,
            "vae/config.json": 2,
        }
        assert (plan.is_folder, plan.bytes_total, plan.name) == (True, 102, "model")
    plan = await client.resolve(str(folder / "a.safetensors"))
    assert ([file.path for file in plan.files], plan.is_folder) == (["a.safetensors"], False)


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("C:\\models\\x.safetensors", "FIELD_INVALID", "path of Windows"),
        ("\\\\host\\share\\x.safetensors", "FIELD_INVALID", "path of Windows"),
        ("file://elsewhere/x", "FIELD_INVALID", "of this host"),
        ("what is this", "FIELD_INVALID", "no repository"),
        ("relative/x/y", "FIELD_INVALID", "no absolute path"),
        ("ftp://h/x", "FIELD_INVALID", "http"),
        ("/etc/passwd", "FORBIDDEN_PATH", "import_roots"),
    ],
)
async def test_what_cannot_be_looked_up_says_why(
    client: DownloadClient, source: str, reason: str, words: str
) -> None:
    with refused(reason) as error:
        await client.resolve(source)
    assert words in f"{error.message} {error.metadata}"


async def test_a_private_address_is_refused_as_for_a_download(data_dir: Path, server: HttpServer) -> None:
    server.put("/x.safetensors", Resource(BIG))
    async with download_service(data_dir, allow_private_addresses=False) as client:
        with refused("FORBIDDEN_ADDRESS"):
            await client.resolve(server.url("/x.safetensors"))
    assert not server.requests
