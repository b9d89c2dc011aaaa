"""RetryInstall over real channels: what failed is made anew, from the download that it kept."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from modelkeep.install.v1 import control_pb2 as control
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import taxonomy_pb2
from support.downloads import downloads_beside
from support.failures import fails
from support.httpserver import HttpServer, Resource, Status
from support.installs import InstallClient, install_beside, records_beside, small_lora

COMPLETED, ERROR = install_pb2.INSTALL_STATE_COMPLETED, install_pb2.INSTALL_STATE_ERROR
CANCELLED = install_pb2.INSTALL_STATE_CANCELLED


async def retry(service: InstallClient, *ids: int, **fields: Any) -> list[install_pb2.Install]:
    answer = await service.stub.RetryInstall(control.RetryInstallRequest(ids=ids, **fields))
    return list(answer.installs)


def body(folder: Path) -> bytes:
    return small_lora(folder / "made.safetensors").read_bytes()


async def test_a_kept_download_is_the_new_jobs_and_is_not_fetched_again(
    data_dir: Path, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    url = web.put("/ink.safetensors", Resource(content))
    async with downloads_beside(data_dir) as downloads, records_beside(data_dir) as (records, address):
        peers = (records, address, downloads)
        (data_dir / "models").mkdir(exist_ok=True)
        async with install_beside(data_dir, *peers) as service:
            refused = install_pb2.ModelOverrides(format=taxonomy_pb2.MODEL_FORMAT_OLIVE)  # at last
            failed = await service.install(url, overrides=refused, labels={"run": "7"}, priority=3)
            assert (failed.state, failed.error.reason) == (ERROR, "INVALID_MODEL_CONFIG")
            kept = Path(failed.error.metadata["kept_path"])
            assert kept.exists()
            [made] = await retry(service, failed.id)
            assert (made.retry_of_id, made.overrides, dict(made.labels)) == (failed.id, refused, {"run": "7"})
            assert made.model_key != failed.model_key
            again = await service.ended(made)
            assert (again.state, again.error.reason) == (ERROR, "INVALID_MODEL_CONFIG")
            assert again.error.metadata["kept_path"] == str(kept)
            old = await service.get(failed)
            assert old.state == ERROR
            assert "kept_path" not in old.error.metadata
            assert "kept" not in old.error.message
        async with install_beside(data_dir, *peers) as service:
            assert kept.exists(), "it has an owner after a restart"
            await service.stub.PruneInstalls(pb.PruneInstallsRequest(ids=[failed.id]))
            assert kept.exists(), "and after the old job is forgotten"
            [third] = await retry(service, again.id)
            assert (await service.ended(third)).state == ERROR
            await service.stub.DeleteInstall(control.DeleteInstallRequest(id=third.id))
            assert not kept.exists()
            assert service.litter() == []
    assert web.bytes_served("/ink.safetensors") == len(content)


async def test_a_download_that_failed_is_fetched_anew_and_installed(
    with_downloads: InstallClient, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    resource = Resource(content, faults=[Status(404)])
    failed = await with_downloads.install(web.put("/ink.safetensors", resource))
    assert (failed.state, failed.error.reason) == (ERROR, "SOURCE_NOT_FOUND")
    [made] = await retry(with_downloads, failed.id)
    done = await with_downloads.ended(made)
    assert (done.state, done.retry_of_id) == (COMPLETED, failed.id), done.error
    assert Path(done.local_path).read_bytes() == content
    assert with_downloads.litter() == []


async def test_all_that_failed_are_made_anew_once_and_those_without_their_secrets_are_named(
    with_downloads: InstallClient, web: HttpServer, source: Path, tmp_path: Path
) -> None:
    service, content = with_downloads, body(tmp_path)
    lost = source / "lost.safetensors"
    lost.write_bytes(b"x")
    local = await service.install(lost)
    small_lora(lost)
    remote = await service.install(web.put("/a.safetensors", Resource(content, faults=[Status(404)])))
    locked = web.put("/b.safetensors", Resource(content, authorization="Bearer open-sesame"))
    secret = await service.install(locked, access_token="wrong")
    done = await service.install(small_lora(source / "done.safetensors", base="sdxl"))
    answer = await service.stub.RetryInstall(control.RetryInstallRequest(all_failed=True))
    assert [job.retry_of_id for job in answer.installs] == [local.id, remote.id]
    assert list(answer.needs_secrets_ids) == [secret.id]
    for job in answer.installs:
        assert (await service.ended(job)).state == COMPLETED
    again = await service.stub.RetryInstall(control.RetryInstallRequest(all_failed=True))
    assert (list(again.installs), list(again.needs_secrets_ids)) == ([], [secret.id])

    with fails(code="FAILED_PRECONDITION", reason="TOKEN_REQUIRED") as found:
        await retry(service, secret.id)
    assert found[0].metadata["needs"] == "access_token"
    [made] = await retry(service, secret.id, access_token="open-sesame")
    opened = await service.ended(made)
    assert opened.state == COMPLETED
    assert "open-sesame" not in str(opened)
    with fails(code="FAILED_PRECONDITION", reason="WRONG_STATE") as found:
        await retry(service, done.id)
    assert found[0].metadata["allowed"] == "error,cancelled"


async def test_a_repeated_call_and_a_source_under_way_make_no_second_job(
    with_downloads: InstallClient, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    resource = Resource(content, rate=len(content) // 30)
    job = await with_downloads.submit(web.put("/ink.safetensors", resource))
    await with_downloads.until(job, lambda now: now.progress.bytes_done > 0)
    await with_downloads.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
    assert (await with_downloads.ended(job)).state == CANCELLED
    request_id = str(uuid.uuid4())
    [first] = await retry(with_downloads, job.id, request_id=request_id)
    [second] = await retry(with_downloads, job.id, request_id=request_id)
    [third] = await retry(with_downloads, job.id)
    assert {first.id, second.id, third.id} == {first.id}
    resource.rate = None
    assert (await with_downloads.ended(first)).state == COMPLETED


async def test_what_is_asked_for_wrongly_makes_nothing(service: InstallClient, source: Path) -> None:
    (source / "a.safetensors").write_bytes(b"x")
    failed = await service.install(source / "a.safetensors")
    (source / "a.safetensors").unlink()
    for fields, field in (
        ({}, "ids"),
        ({"ids": [failed.id], "all_failed": True}, "ids"),
        ({"ids": [failed.id], "access_token": "x"}, "access_token"),
        ({"all_failed": True, "source_url": "https://h/x"}, "source_url"),
    ):
        with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID", fields=[field]):
            await service.stub.RetryInstall(control.RetryInstallRequest(**fields))
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await retry(service, failed.id, 99)
    with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
        await retry(service, failed.id)
    assert len((await service.stub.ListInstalls(pb.ListInstallsRequest())).installs) == 1


async def test_a_job_that_ends_with_a_taken_download_leaves_no_folder(
    with_downloads: InstallClient, web: HttpServer, tmp_path: Path
) -> None:
    content = body(tmp_path)
    url = web.put("/ink.safetensors", Resource(content))
    refused = install_pb2.ModelOverrides(format=taxonomy_pb2.MODEL_FORMAT_OLIVE)
    failed = await with_downloads.install(url, overrides=refused)
    await with_downloads.install(url)  # meanwhile, otherwise: from now on the source has a model
    [made] = await retry(with_downloads, failed.id)
    done = await with_downloads.ended(made)
    assert (done.state, done.installed_already) == (COMPLETED, True)
    assert with_downloads.litter() == []
