"""CreateDownload of what a hub names: looked up in the call, and fetched as its plan says."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelkeep.download.v1 import download_pb2, fail_pb2, retry_pb2
from modelkeep.download.v1 import download_service_pb2 as pb
from support.downloads import DownloadClient, download_service, stored_job
from support.failures import fails, refused
from support.httpserver import Hang, HttpServer, Resource, pattern
from support.shelf import REVISION, Shelf

BODIES = {"model_index.json": b'{"a": 1}', "vae/model.bin": pattern(300_000, seed=1)}
COMPLETED = download_pb2.DOWNLOAD_STATE_COMPLETED
ERROR = download_pb2.DOWNLOAD_STATE_ERROR
SECRET = "s3cret-word"


@pytest.fixture
def shelf(web: HttpServer) -> Shelf:
    return Shelf(web)


@pytest.fixture
async def client(data_dir: Path, shelf: Shelf) -> AsyncIterator[DownloadClient]:
    async with download_service(data_dir, resolvers=[shelf], max_attempts=1) as service:
        yield service


def remote(source: str, **fields: str) -> download_pb2.DownloadSource:
    return download_pb2.DownloadSource(remote={"source": source, **fields})


def delivered(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_several_files_become_a_folder_with_the_hubs_hashes(
    client: DownloadClient, shelf: Shelf
) -> None:
    shelf.put("owner/name", BODIES)
    made = await client.create(source=remote("owner/name", variant="fp16"), destination=f"{client.folder}/m")
    assert made.file_count == 2
    found = made.source.remote
    assert (found.source, found.variant, found.revision) == ("owner/name", "fp16", REVISION)
    assert (await client.ended(made)).verified
    done = await client.get(made)
    assert [file.sha256 for file in done.files] == [hashlib.sha256(b).hexdigest() for b in BODIES.values()]
    assert all(file.verified for file in done.files)
    assert delivered(client.folder / "m") == BODIES
    assert done.source.remote == found


@pytest.mark.parametrize("place", ["{}/", "{}/other.bin"])
async def test_a_single_file_becomes_one_and_has_the_hubs_name_unless_another_is_given(
    client: DownloadClient, shelf: Shelf, place: str
) -> None:
    body = BODIES["vae/model.bin"]
    shelf.put("owner/one", {"vae/model.bin": body}, folder=False)
    done = await client.run(source=remote("owner/one"), destination=place.format(client.folder))
    name = "model.bin" if place.endswith("/") else "other.bin"
    assert (done.state, done.file_count, done.path) == (COMPLETED, 0, f"{client.folder}/{name}")
    assert (done.verified, done.source.remote.revision) == (True, REVISION)
    assert Path(done.path).read_bytes() == body


async def test_other_bytes_or_another_size_than_the_hub_tells_are_not_delivered(
    client: DownloadClient, shelf: Shelf, web: HttpServer
) -> None:
    plan = shelf.put("owner/one", {"a.bin": pattern(1000)}, folder=False)
    web.put("/owner/one/a.bin", Resource(pattern(1000, seed=9)))
    failed = await client.run(source=remote("owner/one"))
    assert (failed.state, failed.error.reason) == (ERROR, "CHECKSUM_MISMATCH")
    shelf.plan("owner/one", replace(plan, files=[replace(plan.files[0], sha256="", size=999)]))
    failed = await client.run(source=remote("owner/one"))
    assert (failed.state, failed.error.reason) == (ERROR, "SOURCE_CHANGED")
    assert not (client.folder / "a.bin").exists()


async def test_a_repeat_answers_as_before_and_asks_nobody(client: DownloadClient, shelf: Shelf) -> None:
    shelf.put("owner/name", BODIES)
    once: dict[str, Any] = {"destination": f"{client.folder}/m", "request_id": str(uuid.uuid4())}
    first = await client.create(source=remote("owner/name"), **once)
    await client.ended(first)
    shelf.plan("owner/name", shelf.put("owner/other", {"b.bin": b"b"}))
    assert await client.create(source=remote("owner/name"), **once) == first
    assert len(shelf.asked) == 1
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await client.create(source=remote("owner/name", revision="v2"), **once)
    assert len(shelf.asked) == 1


async def test_what_the_lookup_answers_is_the_calls_error_and_leaves_no_job(
    client: DownloadClient, shelf: Shelf
) -> None:
    shelf.put("owner/gated", BODIES, token=SECRET)
    with refused("SOURCE_NOT_FOUND"):
        await client.create(source=remote("gone/name"))
    with refused("TOKEN_REQUIRED"):
        await client.create(source=remote("owner/gated"))
    for wrong in ("neither this nor that", "file://other/x"):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["source.remote.source"]):
            await client.create(source=remote(wrong))
    assert not (await client.stub.ListDownloads(pb.ListDownloadsRequest())).downloads


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": SECRET},
        {"at": f"https://hub.test/owner/gated?token={SECRET}"},
        {"at": f"https://user:{SECRET}@hub.test/owner/gated"},
    ],
)
async def test_a_token_is_the_jobs_and_is_stored_and_told_nowhere(
    data_dir: Path, shelf: Shelf, fields: dict[str, str]
) -> None:
    shelf.put("owner/gated", BODIES, token=SECRET)
    source = remote(fields.get("at", "owner/gated"))
    token = fields.get("access_token", "")
    async with download_service(data_dir, resolvers=[shelf]) as client:
        made = await client.create(
            source=source, access_token=token, destination=f"{client.folder}/m", start=False
        )
        assert SECRET not in str(made)
        assert made.source.remote.source == "owner/gated"
    assert SECRET not in str(stored_job(data_dir / "download" / "download.db", made.id))
    async with download_service(data_dir, resolvers=[shelf]) as client:
        with refused("TOKEN_REQUIRED") as error:
            await client.stub.StartDownload(pb.StartDownloadRequest(id=made.id))
        assert error.metadata["needs"] == "access_token"
        await client.stub.StartDownload(pb.StartDownloadRequest(id=made.id, access_token=SECRET))
        assert (await client.ended(made)).state == COMPLETED
        assert delivered(client.folder / "m") == BODIES
    assert len(shelf.asked) == 1


async def test_a_retry_has_the_same_revision_and_goes_on_without_the_hub(
    client: DownloadClient, shelf: Shelf, web: HttpServer
) -> None:
    shelf.put("owner/name", BODIES)
    body = BODIES["vae/model.bin"]
    web.put("/owner/name/vae/model.bin", Resource(body, faults=[Hang(100_000)]))
    old = await client.create(
        source=remote("owner/name"),
        destination=f"{client.folder}/m",
        preserve_partial=True,
        labels={"run": "7"},
    )
    await client.until(old, lambda now: now.progress.bytes_done >= 100_000)
    await client.stub.FailDownload(fail_pb2.FailDownloadRequest(id=old.id))
    assert (await client.ended(old)).state == ERROR
    answer = await client.stub.RetryDownload(retry_pb2.RetryDownloadRequest(id=old.id))
    assert answer.download.source.remote == old.source.remote
    assert (answer.download.labels["run"], answer.download.retry_of_id) == ("7", old.id)
    assert (await client.ended(answer.download)).state == COMPLETED
    assert delivered(client.folder / "m") == BODIES
    assert len(shelf.asked) == 1
    assert [request.range for request in web.requests_of("/owner/name/vae/model.bin")][-1] is not None


async def test_a_path_is_copied_and_an_address_is_fetched_as_ever(
    client: DownloadClient, web: HttpServer, shelf: Shelf
) -> None:
    body = pattern(1000)
    web.put("/a.bin?token=x-secret", Resource(body))
    there = client.folder / "there.bin"
    there.parent.mkdir(exist_ok=True)
    there.write_bytes(body)
    copied = await client.run(source=remote(f"file://{there}"), destination=f"{client.folder}/b/")
    assert (copied.state, copied.source.local_path.path) == (COMPLETED, str(there))
    assert (there.exists(), Path(copied.path).read_bytes()) == (True, body)
    url = web.url("/a.bin?token=x-secret")
    once = {"request_id": str(uuid.uuid4())}
    fetched = await client.run(source=remote(url), **once)
    assert (fetched.state, fetched.source.url) == (COMPLETED, web.url("/a.bin?token=REDACTED"))
    assert (await client.create(source=remote(url), **once)).id == fetched.id
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await client.create(source=remote(web.url("/a.bin?sig=other-one-here")), **once)
    with refused("FORBIDDEN_PATH"):
        await client.create(source=remote("/etc/passwd"))
    assert not shelf.asked


async def test_a_plan_that_cannot_be_one_download_is_refused_in_words(
    client: DownloadClient, shelf: Shelf
) -> None:
    plan = shelf.put("owner/name", {"a.bin": b"a"}, folder=False)
    file = plan.files[0]
    shelf.plan("owner/name", replace(plan, files=[replace(file, path="../a.bin")]))
    with refused("FIELD_INVALID") as error:
        await client.create(source=remote("owner/name"))
    assert "'../a.bin'" in str(error)
    shelf.plan("owner/name", replace(plan, files=[replace(file, path=f"{n}.bin") for n in range(10_001)]))
    with refused("FIELD_INVALID") as error:
        await client.create(source=remote("owner/name"))
    assert "10,001 files" in str(error)
    shelf.plan("owner/name", plan)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["expected_sha256"]):
        await client.create(source=remote("owner/name"), expected_sha256="ab" * 32)
    shelf.put("owner/set", BODIES)
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=["filename"]):
        await client.create(source=remote("owner/set"), filename="a.bin")
