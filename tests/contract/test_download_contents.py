"""What arrives is looked at before it is written: what is no file is refused, and names follow from it."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from modelkeep.download.v1 import download_pb2
from modelkeep.exceptions import FieldInvalidException
from modelkeep.rpc import Address, decode
from support.downloads import DownloadClient, download_service
from support.httpserver import Cut, HttpServer, Resource, pattern

COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR


def safetensors(size: int = 20_000) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + pattern(size)


MODEL = safetensors()
LOG_IN = "The creator of this asset requires you to be logged in to download it"


@pytest.fixture
async def client(data_dir: Path) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, max_attempts=3) as service:
        yield service


#: What is served as m.safetensors, its media type, and words of the error.
OTHERS = (
    (
        json.dumps({"error": "Unauthorized", "message": LOG_IN}).encode(),
        "application/json",
        f'JSON: "{LOG_IN}"',
    ),
    (b"Entry not found", "text/plain", 'text: "Entry not found"'),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 334643268\n",
        "text/plain",
        "a Git LFS pointer to a file of 334,643,268 bytes",
    ),
    (gzip.compress(MODEL), "application/octet-stream", "compressed with gzip"),
    (b"PK\x03\x04" + bytes(100), "application/zip", "a zip archive"),
    (b"<?xml version='1.0'?><Error><Message>Denied</Message></Error>", "application/xml", 'XML: "Denied"'),
    (b"<!doctype html><title>vae.safetensors</title>", "text/plain", 'a web page: "vae.safetensors"'),
    (pattern(9000), "text/html; charset=utf-8", "what it calls a web page"),
    (b"", "application/octet-stream", "serves what is empty in place"),
    (bytes(9000), "application/octet-stream", "nothing but zeros"),
    (b"GGUF" + bytes(100), "application/octet-stream", "a GGUF file"),
)


async def test_what_is_sent_in_place_of_the_file_is_refused_as_what_it_is(
    client: DownloadClient, web: HttpServer
) -> None:
    for number, (body, media_type, words) in enumerate(OTHERS):
        for served in ({}, {"chunked": True}, {"rate": max(len(body) * 4, 1)}):
            url = web.put(f"/{number}/m.safetensors", Resource(body, content_type=media_type, **served))
            job = await client.run(url)
            assert (job.state, job.error.reason, job.attempt) == (ERROR, "NOT_A_MODEL_FILE", 1), (words, job)
            assert words in job.error.message
    assert [p.name for p in client.folder.iterdir() if not p.name.startswith(".")] == []
    assert not list((client.folder / ".staging").iterdir())


async def test_text_and_archives_arrive_where_they_are_asked_for(
    client: DownloadClient, web: HttpServer
) -> None:
    files = {
        "config.json": b'{"a": 1}',
        "README": b"# read me",
        "notes.txt": b"text",
        "all.zip": b"PK\x03\x04" + bytes(100),
        "x.gguf": b"GGUF" + bytes(100),
        "old.ckpt": b"\x80\x02}q\x00.",
    }
    for name, body in files.items():
        job = await client.run(web.put(f"/{name}", Resource(body)))
        assert (job.state, Path(job.path).read_bytes()) == (COMPLETED, body), job


async def test_an_expected_hash_decides_what_the_file_is(client: DownloadClient, web: HttpServer) -> None:
    body = b"Entry not found"
    url = web.put("/m.safetensors", Resource(body))
    job = await client.run(url, expected_sha256=hashlib.sha256(MODEL).hexdigest())
    assert (job.state, job.error.reason) == (ERROR, "NOT_A_MODEL_FILE")
    assert not list((client.folder / ".staging").iterdir())
    job = await client.run(url, expected_sha256=hashlib.sha256(body).hexdigest())
    assert (job.state, job.verified) == (COMPLETED, True)


async def test_an_error_that_repeats_a_secret_does_not_show_it(
    client: DownloadClient, web: HttpServer
) -> None:
    web.put(
        "/m.safetensors?sig=topsecretvalue", Resource(b"no access with topsecretvalue and a-token-of-mine")
    )
    job = await client.run(web.url("/m.safetensors?sig=topsecretvalue"), access_token="a-token-of-mine")
    assert "no access with REDACTED and REDACTED" in job.error.message
    assert "topsecret" not in str(job)
    assert "of-mine" not in str(job)


async def test_a_body_without_a_length_that_is_cut_is_no_model(
    client: DownloadClient, web: HttpServer
) -> None:
    whole = await client.run(web.put("/whole.safetensors", Resource(MODEL, lengthless=True)))
    assert whole.state == COMPLETED
    cut = Resource(MODEL, lengthless=True, faults=[Cut(9000)])
    job = await client.run(web.put("/cut.safetensors", cut))
    assert (job.state, job.error.reason) == (ERROR, "NOT_A_MODEL_FILE")
    assert "a cut safetensors file" in job.error.message


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/api/download/models/130072", None, "130072.safetensors"),
        ("/api/download/models/130072", 'attachment; filename="model"', "model.safetensors"),
        ("/x/style%20v1.5", None, "style v1.5.safetensors"),
        ("/v0/b/bucket/o/models%2Fvae%2Fone.safetensors", None, "one.safetensors"),
        ("/v0/b/bucket/o/models%2Fvae%2Fone", None, "one.safetensors"),
        ("/", None, "download-1.safetensors"),
        ("/m.ckpt", None, "m.ckpt"),
        ("/x", 'attachment; filename="%E5%A2%A8.safetensors"', "墨.safetensors"),
    ],
)
async def test_the_bytes_give_the_name_its_suffix_where_the_address_has_none(
    client: DownloadClient, web: HttpServer, path: str, disposition: str | None, name: str
) -> None:
    job = await client.run(web.put(path, Resource(MODEL, disposition=disposition, faults=[Cut(10_000)])))
    assert (job.state, Path(job.path).name) == (COMPLETED, name)
    assert Path(job.path).read_bytes() == MODEL


async def test_a_model_that_is_called_a_web_page_is_a_model(client: DownloadClient, web: HttpServer) -> None:
    job = await client.run(web.put("/m.safetensors", Resource(MODEL, content_type="text/html")))
    assert job.state == COMPLETED


async def test_a_name_that_was_asked_for_stays_as_it_is(client: DownloadClient, web: HttpServer) -> None:
    url = web.put("/m", Resource(MODEL))
    assert Path((await client.run(url, filename="mine")).path).name == "mine"
    assert Path((await client.run(url, destination=f"{client.folder}/other")).path).name == "other"


async def test_the_name_with_its_suffix_replaces_nothing_either(
    client: DownloadClient, web: HttpServer
) -> None:
    (client.folder / "m.safetensors").write_bytes(b"mine")
    job = await client.run(web.put("/m", Resource(MODEL)))
    assert (job.state, job.error.reason) == (ERROR, "DESTINATION_EXISTS")
    assert (client.folder / "m.safetensors").read_bytes() == b"mine"


async def test_a_hash_is_taken_as_it_is_pasted_and_another_one_is_named(
    client: DownloadClient, web: HttpServer
) -> None:
    url = web.put("/m.safetensors", Resource(MODEL))
    sha256 = (await client.run(url)).sha256
    job = await client.run(
        url, expected_sha256=f" SHA256:{sha256.upper()} ", destination=f"{client.folder}/2"
    )
    assert (job.state, job.verified, job.expected_sha256) == (COMPLETED, True, sha256)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.create(url, expected_sha256=sha256[:10].upper())
    error = decode(caught.value, Address("download", "localhost:1", "the test"))
    assert isinstance(error, FieldInvalidException)
    assert "AutoV2" in str(error)
