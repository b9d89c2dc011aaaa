"""RegisterPath and InstallPath over a real channel: a path in, a key out, by jobs like ImportModel's."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.install.v1 import install_pb2, paths_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from support.failures import fails, failure_of
from support.installs import InstallClient, small_lora
from support.modelshapes import write_safetensors


async def register(service: InstallClient, path: Path, **fields: Any) -> paths_pb2.RegisterPathResponse:
    answer: paths_pb2.RegisterPathResponse = await service.stub.RegisterPath(
        paths_pb2.RegisterPathRequest(path=str(path), **fields)
    )
    return answer


async def install(service: InstallClient, path: Path, **fields: Any) -> paths_pb2.InstallPathResponse:
    answer: paths_pb2.InstallPathResponse = await service.stub.InstallPath(
        paths_pb2.InstallPathRequest(path=str(path), **fields)
    )
    return answer


async def test_a_path_is_registered_where_it_lies_and_its_key_comes_back(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "ink.safetensors")
    overrides = install_pb2.ModelOverrides(name="Ink")
    answer = await register(service, path, overrides=overrides)
    model = await service.model(answer.key)
    assert (model.name, model.path) == ("Ink", str(path))
    assert answer.install.model == model
    assert answer.install.state == install_pb2.INSTALL_STATE_COMPLETED
    assert (await service.get(answer.install.id)).download_id == 0
    again = await register(service, path, overrides=overrides)
    assert (again.key, again.install.installed_already) == (answer.key, True)
    assert await service.models_count() == 1


async def test_a_path_is_copied_into_models_dir_and_its_key_comes_back(
    service: InstallClient, source: Path
) -> None:
    path = small_lora(source / "ink.safetensors")
    answer = await install(service, path)
    copy = Path(answer.install.local_path)
    assert copy == service.models / answer.key / "ink.safetensors"
    assert copy.read_bytes() == path.read_bytes()
    assert (await install(service, path)).key == answer.key
    registered = await register(service, path)
    assert registered.key != answer.key
    assert list(registered.install.same_content_keys) == [answer.key]
    assert service.litter() == []


@pytest.mark.parametrize("take", [register, install])
async def test_what_the_job_fails_with_is_the_calls_error(
    service: InstallClient, source: Path, take: Any
) -> None:
    unknown = write_safetensors(source / "unknown.safetensors", {"x": [1]})
    with fails(code="FAILED_PRECONDITION", reason="INVALID_MODEL") as found:
        await take(service, unknown)
    failure = found[0]
    assert (failure.metadata["path"], failure.metadata["missing"]) == (str(unknown), "type,base")
    with fails(code="FAILED_PRECONDITION", reason="SOURCE_NOT_FOUND"):
        await take(service, source / "nothing.safetensors")
    with fails(code="PERMISSION_DENIED", reason="FORBIDDEN_PATH"):
        await take(service, Path("/etc/hostname"))
    with fails(code="INVALID_ARGUMENT", reason="FIELD_INVALID"):
        await take(service, Path("relative"))
    assert await service.models_count() == 0


async def test_a_repeat_with_the_same_request_id_waits_for_the_same_job(
    service: InstallClient, source: Path
) -> None:
    path, request_id = small_lora(source / "ink.safetensors"), str(uuid.uuid4())
    first, second = await asyncio.gather(
        register(service, path, request_id=request_id), register(service, path, request_id=request_id)
    )
    assert first.install.id == second.install.id
    await service.stub.PruneInstalls(pb.PruneInstallsRequest())
    with fails(code="NOT_FOUND", reason="UNKNOWN_JOB"):
        await register(service, path, request_id=request_id)
    with fails(code="INVALID_ARGUMENT", reason="REQUEST_ID_REUSED"):
        await register(service, source, request_id=request_id)


async def test_at_its_deadline_the_call_ends_and_the_job_goes_on(
    service: InstallClient, source: Path, held_hash: threading.Event
) -> None:
    path = small_lora(source / "slow.safetensors")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.stub.RegisterPath(paths_pb2.RegisterPathRequest(path=str(path)), timeout=1)
    failure = failure_of(raised.value)
    assert (failure.reason, await service.models_count()) == ("DEADLINE_EXCEEDED", 0)
    held_hash.set()
    done = await service.ended(int(failure.metadata["id"]))
    assert done.state == install_pb2.INSTALL_STATE_COMPLETED
    assert (await register(service, path)).key == done.model_key


async def test_a_job_that_somebody_cancels_ends_the_call(
    service: InstallClient, source: Path, held_hash: threading.Event
) -> None:
    path = small_lora(source / "slow.safetensors")
    call = asyncio.ensure_future(register(service, path))
    job = await service.submit(path)  # the same source and arguments: the same job
    await service.stub.CancelInstall(pb.CancelInstallRequest(id=job.id))
    held_hash.set()
    with fails(code="CANCELLED", reason="CANCELLED") as found:
        await call
    assert found[0].metadata["id"] == str(job.id)
    assert os.path.lexists(path)
