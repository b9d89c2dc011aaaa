"""An InstallService for tests, in this process, with real peers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.install.v1 import install_service_pb2_grpc as rpc
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep.record.v1 import record_service_pb2_grpc as record_rpc
from modelkeep_common.serving import start_server
from modelkeep_install.app import InstallApplication
from modelkeep_install.config import InstallSettings
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings
from support.modelshapes import table, write_safetensors
from support.tokens import write_tokens

ENDED = (
    install_pb2.INSTALL_STATE_COMPLETED,
    install_pb2.INSTALL_STATE_ERROR,
    install_pb2.INSTALL_STATE_CANCELLED,
)


#: A port on which nothing listens.
NOBODY = "127.0.0.1:9"


def small_lora(path: Path, *, base: str = "sd-1", **kwargs: Any) -> Path:
    """A LoRA of true shapes, a few megabytes long."""
    return write_safetensors(path, table(f"lora.{base}.peft"), **kwargs)


class InstallClient:
    """The stubs, with the waits that tests need."""

    def __init__(
        self, channel: grpc.aio.Channel, records: Any, models: Path, download_address: str = ""
    ) -> None:
        self.stub: Any = rpc.InstallServiceStub(channel)
        self.records = records
        self.models = models
        self.download_address = download_address

    async def submit(self, source: Path | str, **fields: Any) -> install_pb2.Install:
        """ImportModel of a path or URL; answers at once."""
        if isinstance(source, Path):
            what = install_pb2.InstallSource(local_path=str(source))
        else:
            what = install_pb2.InstallSource(url=source)
        answer: pb.ImportModelResponse = await self.stub.ImportModel(
            pb.ImportModelRequest(source=what, **fields)
        )
        return answer.install

    async def ended(self, job: install_pb2.Install | int, timeout: float = 20) -> install_pb2.Install:
        """The job when it has ended."""
        request = pb.WaitInstallsRequest(ids=[job if isinstance(job, int) else job.id])
        request.timeout.FromMilliseconds(int(timeout * 1000))
        answer: pb.WaitInstallsResponse = await self.stub.WaitInstalls(request)
        assert answer.done, f"not ended: {answer.installs}"
        return answer.installs[0]

    async def install(self, source: Path | str, **fields: Any) -> install_pb2.Install:
        """ImportModel, then the job when it has ended."""
        return await self.ended(await self.submit(source, **fields))

    async def get(self, job: install_pb2.Install | int) -> install_pb2.Install:
        """The job as it is now."""
        answer: pb.GetInstallResponse = await self.stub.GetInstall(
            pb.GetInstallRequest(id=job if isinstance(job, int) else job.id)
        )
        return answer.install

    async def until(
        self,
        job: install_pb2.Install | int,
        condition: Callable[[install_pb2.Install], bool],
        timeout: float = 15,
    ) -> install_pb2.Install:
        """The job as soon as the condition holds."""
        deadline = time.monotonic() + timeout
        while not condition(now := await self.get(job)):
            assert time.monotonic() < deadline, f"never so: {now}"
            await asyncio.sleep(0.02)
        return now

    async def model(self, key: str) -> model_pb2.Model:
        """The record."""
        answer: record_pb.GetModelResponse = await self.records.GetModel(record_pb.GetModelRequest(key=key))
        return answer.model

    async def models_count(self) -> int:
        """Number of records."""
        answer: record_pb.GetStoreInfoResponse = await self.records.GetStoreInfo(
            record_pb.GetStoreInfoRequest()
        )
        return answer.model_count

    async def files(self, key: str) -> list[model_pb2.ModelFile]:
        """The files of a record."""
        answer: record_pb.ListModelFilesResponse = await self.records.ListModelFiles(
            record_pb.ListModelFilesRequest(key=key, page_size=1000)
        )
        return list(answer.files)

    async def digested(self, key: str, timeout: float = 15) -> list[model_pb2.ModelFile]:
        """The files of a record once all have their digests, or are given up."""
        deadline = time.monotonic() + timeout
        while True:
            files = await self.files(key)
            if all(f.digest_state > model_pb2.DIGEST_STATE_PENDING for f in files):
                return files
            assert time.monotonic() < deadline, f"never hashed: {files}"
            await asyncio.sleep(0.02)

    def litter(self) -> list[str]:
        """Everything in models_dir that is no installed model: staging folders, empty folders."""
        found = []
        staging = self.models / ".staging"
        if staging.exists():
            found += [str(path.relative_to(self.models)) for path in staging.iterdir()]
        for path in self.models.iterdir():
            if path.is_dir() and path.name != ".staging" and not any(path.rglob("*")):
                found.append(path.name)
        return found


@contextlib.asynccontextmanager
async def records_beside(data_dir: Path) -> AsyncIterator[tuple[Any, str]]:
    """(stub, address) of a RecordService in this process."""
    settings = RecordSettings.for_test(data_dir)
    server = await start_server(RecordApplication(settings), settings)
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield record_rpc.RecordServiceStub(channel), server.address
    finally:
        await server.stop()


def for_the_owner(data_dir: Path) -> dict[str, Any]:
    """Settings of a service that is called by its owner only, who may have anything read."""
    return {
        "allow_any_import_root": True,
        "insecure": False,
        "token_file": write_tokens(data_dir / "tokens.json", {}),
        "unix_socket": data_dir / "s" / "i.sock",
    }


@contextlib.asynccontextmanager
async def install_beside(
    data_dir: Path, records: Any, record_address: str, download_address: str = NOBODY, **values: Any
) -> AsyncIterator[InstallClient]:
    """An InstallService in this process, on peers that are given."""
    settings = InstallSettings.for_test(
        data_dir,
        **{
            "record_address": record_address,
            "download_address": download_address,
            "import_roots": (data_dir.parent / "import",),
            # Records of tests lie anywhere; that they are missing would be news in the middle of a test. So
            # would a scan be.
            "check_files_seconds": 0,
            "sync_at_start": False,
            **values,
        },
    )
    server = await start_server(InstallApplication(settings), settings)
    try:
        target = f"unix:{settings.unix_socket}" if settings.unix_socket else server.address
        async with grpc.aio.insecure_channel(target) as channel:
            models = Path(os.path.realpath(data_dir)) / "models"
            yield InstallClient(channel, records, models, download_address)
    finally:
        await server.stop(grace_s=0.5)


@contextlib.asynccontextmanager
async def install_service(data_dir: Path, **values: Any) -> AsyncIterator[InstallClient]:
    """An InstallService in this process, with a RecordService; may import from ``data_dir/import``."""
    (data_dir.parent / "import").mkdir(exist_ok=True)
    async with (
        records_beside(data_dir) as (records, address),
        install_beside(data_dir, records, address, **values) as client,
    ):
        yield client
