"""Addresses that differ only in what is hidden of them: nobody gets another's model."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from support.downloads import downloads_beside
from support.failures import fails
from support.httpserver import HttpServer, Resource
from support.installs import InstallClient, install_beside, records_beside, small_lora

COMPLETED = install_pb2.INSTALL_STATE_COMPLETED
PAUSED = install_pb2.INSTALL_STATE_PAUSED
#: Names that are hidden as nobody knows them, and might be a credential's or an object's.
UNKNOWN = ("weights", "key", "code", "tokenizer")


@pytest.fixture
def bodies(tmp_path: Path) -> dict[str, bytes]:
    """Two models of one size."""
    return {
        name: small_lora(tmp_path / f"{name}.safetensors", metadata={"name": name}).read_bytes()
        for name in ("anna", "bert")
    }


def served(web: HttpServer, bodies: dict[str, bytes], name: str = "weights", **values: object) -> list[str]:
    """The addresses of both models, which are shown alike."""
    return [
        web.put(f"/get.safetensors?{name}={value}", Resource(body, **values))  # type: ignore[arg-type]
        for value, body in bodies.items()
    ]


def let_through(web: HttpServer) -> None:
    for resource in web.resources.values():
        resource.rate = None


async def submitted(service: InstallClient, url: str, **fields: object) -> pb.ImportModelResponse:
    request = pb.ImportModelRequest(source=install_pb2.InstallSource(url=url), **fields)  # type: ignore[arg-type]
    answer: pb.ImportModelResponse = await service.stub.ImportModel(request)
    return answer


@pytest.mark.parametrize("name", UNKNOWN)
async def test_two_models_whose_addresses_are_shown_alike_are_two_installs(
    data_dir: Path, web: HttpServer, bodies: dict[str, bytes], name: str
) -> None:
    urls = served(web, bodies, name, rate=len(bodies["anna"]) // 20)
    async with (
        downloads_beside(data_dir) as downloads,
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address, downloads) as service,
    ):
        answers = [await submitted(service, url) for url in (*urls, *urls)]
        assert [answer.existing for answer in answers] == [False, False, True, True]
        assert [answer.install.id for answer in answers[2:]] == [a.install.id for a in answers[:2]]
        assert len({answer.install.source.url for answer in answers}) == 1
        let_through(web)
        for answer, body in zip(answers, bodies.values(), strict=False):
            done = await service.ended(answer.install)
            assert done.state == COMPLETED, done.error
            assert Path(done.local_path).read_bytes() == body


async def test_a_fresh_credential_joins_the_install_that_is_under_way(
    data_dir: Path, web: HttpServer, bodies: dict[str, bytes]
) -> None:
    web.put("/get.safetensors", Resource(bodies["anna"]))
    base = web.url("/get.safetensors?weights=anna")
    async with (
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address) as service,
    ):
        for first, second in (
            ("&token=aaaaaaaa", "&token=bbbbbbbb"),
            (
                "&X-Amz-Date=20240101T000000Z&X-Amz-Signature=aa00",
                "&X-Amz-Date=20250101T000000Z&X-Amz-Signature=bb00",
            ),
            ("&se=2024-01-01&sig=aaaaaaaa", "&se=2025-01-01&sig=bbbbbbbb"),
        ):
            job = (await submitted(service, base + first)).install
            again = await submitted(service, base + second)
            assert (again.existing, again.install.id) == (True, job.id)
            with_user = await submitted(service, (base + first).replace("://", "://user:pass@"))
            assert (with_user.existing, with_user.install.id) == (True, job.id)
            other = await submitted(service, (base + second).replace("anna", "bert"))
            assert not other.existing


async def test_an_install_that_waits_for_its_secrets_after_a_restart_takes_the_new_address_whole(
    data_dir: Path, web: HttpServer, bodies: dict[str, bytes]
) -> None:
    urls = served(web, bodies)
    async with records_beside(data_dir) as (records, address):
        async with install_beside(data_dir, records, address) as service:
            waiting = (await submitted(service, urls[0])).install
            ordered = await service.until(
                waiting, lambda i: i.stage == install_pb2.INSTALL_STAGE_WAITING_FOR_PEER
            )
        # as if the stop had come before anybody was asked for the source
        await asyncio.to_thread(_forget_the_order, data_dir)
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            await service.until(ordered, lambda i: i.state == PAUSED)
            with fails(code="ALREADY_EXISTS", reason="INSTALL_IN_PROGRESS") as found:
                await submitted(service, ordered.source.url, access_token="t")  # it hides what is needed
            assert found[0].metadata["id"] == str(waiting.id)
            answer = await submitted(service, urls[1])
            assert (answer.existing, answer.install.id) == (True, waiting.id)
            assert not (await submitted(service, urls[0])).existing
            done = await service.ended(waiting)
            assert done.state == COMPLETED, done.error
            assert Path(done.local_path).read_bytes() == bodies["bert"]


def _forget_the_order(data_dir: Path) -> None:
    import sqlite3

    conn = sqlite3.connect(data_dir / "install" / "install.db")
    with conn:
        conn.execute("UPDATE installs SET job = json_set(job, '$.ordering', json('false'))")
    conn.close()


async def test_an_install_whose_download_was_ordered_before_a_restart_is_not_joined(
    data_dir: Path, web: HttpServer, bodies: dict[str, bytes]
) -> None:
    urls = served(web, bodies, rate=len(bodies["anna"]) // 20)
    async with records_beside(data_dir) as (records, address):
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            first = (await submitted(service, urls[0])).install
            await service.until(first, lambda i: i.download_id > 0)
        async with (
            downloads_beside(data_dir) as downloads,
            install_beside(data_dir, records, address, downloads) as service,
        ):
            for url in urls:
                with fails(code="ALREADY_EXISTS", reason="INSTALL_IN_PROGRESS") as found:
                    await submitted(service, url)
                assert found[0].metadata["id"] == str(first.id)
            # what the error says to do
            let_through(web)
            await service.stub.CancelInstall(pb.CancelInstallRequest(id=first.id))
            done = await service.ended((await submitted(service, urls[1])).install)
            assert done.state == COMPLETED, done.error
            assert Path(done.local_path).read_bytes() == bodies["bert"]


async def test_a_request_id_is_not_answered_with_the_model_of_another_address(
    data_dir: Path, web: HttpServer, bodies: dict[str, bytes]
) -> None:
    urls = served(web, bodies)
    async with (
        downloads_beside(data_dir) as downloads,
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address, downloads) as service,
    ):
        request_id = str(uuid.uuid4())
        first = await submitted(service, urls[0], request_id=request_id)
        assert (await submitted(service, urls[0], request_id=request_id)).install.id == first.install.id
        with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
            await submitted(service, urls[1], request_id=request_id)
        await service.ended(first.install)


async def test_installs_are_found_by_an_address_with_secrets(
    data_dir: Path, web: HttpServer, bodies: dict[str, bytes]
) -> None:
    urls = served(web, bodies)
    async with (
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address) as service,
    ):
        job = (await submitted(service, urls[0])).install
        for part in (urls[0], job.source.url, "/get.safe", "?weights="):
            found = await service.stub.ListInstalls(pb.ListInstallsRequest(source_contains=part))
            assert [install.id for install in found.installs] == [job.id], part
        found = await service.stub.ListInstalls(pb.ListInstallsRequest(source_contains="?weights=bert&x"))
        assert not found.installs
