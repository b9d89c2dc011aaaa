"""A LoaderService for tests, with the RecordService that it reads, and records of tiny models."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from modelkeep.loader.v1 import loader_service_pb2_grpc, resident_pb2
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2, record_service_pb2_grpc
from modelkeep_common.serving import start_server
from modelkeep_loader.app import LoaderApplication, OpenLoader
from modelkeep_loader.config import LoaderSettings
from modelkeep_loader.helper import Helper
from modelkeep_loader.linked import Linked
from modelkeep_record.app import RecordApplication
from modelkeep_record.config import RecordSettings


@dataclass
class Lender:
    """Both services, in this process.

    Attributes:
        stub: Of LoaderService.
        records: Stub of RecordService.
        address: Of LoaderService.
        record_address: Of RecordService.
        models: Folder that models may lie in.
    """

    stub: Any
    records: Any
    address: str
    models: Path
    app: OpenLoader | Any
    record_address: str = ""

    async def register(self, path: Path | str, **fields: Any) -> str:
        """Make a record of a model that lies at a path, with the digests of its files; its key."""
        place = Path(path)
        values: dict[str, Any] = {
            "name": place.name,
            "type": taxonomy_pb2.MODEL_TYPE_MAIN,
            "format": taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
            "base": "sd-1",
            "path": str(path),
            "current_hash": "imohash-of-it",
            **fields,
        }
        model = model_pb2.Model(**values)
        request = record_service_pb2.CreateModelRequest(model=model, files=files_of(place))
        response = await self.records.CreateModel(request)
        return str(response.model.key)


def files_of(place: Path) -> Iterator[model_pb2.ModelFile]:
    """What InstallService would write down about a model's files."""
    paths = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    for path in paths:
        if not path.is_file():
            continue
        file = model_pb2.ModelFile(
            path=path.relative_to(place).as_posix() if path != place else path.name,
            size_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            digest_state=model_pb2.DIGEST_STATE_COMPUTED,
        )
        file.modify_time.FromNanoseconds(path.stat().st_mtime_ns)
        yield file


class _SpareHelper:
    """A helper process that a loader had, for the next one: its imports take seconds of CPU.

    It has nothing of the loader that had it: it gets descriptors and answers with descriptors.
    """

    def __init__(self) -> None:
        self._kept: Linked | None = None
        atexit.register(self._end)

    def lend(self, helper: Helper) -> None:
        """Make it this loader's, which has none yet."""
        if self._kept is not None:
            helper._process, self._kept = self._kept, None
            helper._is_warm = True

    def take(self, helper: Helper) -> None:
        """Keep the one of a loader that ends, unless it is at work, or has died."""
        if self._kept is None and helper._is_warm and helper.pid != 0 and not helper._turn.locked():
            self._kept, helper._process = helper._process, Linked("modelkeep_convert")

    def __bool__(self) -> bool:
        return self._kept is not None

    def _end(self) -> None:
        if self._kept is not None:
            self._kept.stop()


_spare = _SpareHelper()


@contextlib.asynccontextmanager
async def lender(data_dir: Path, models: Path, **settings: Any) -> AsyncIterator[Lender]:
    """Both services, serving in this process; the loader may read `models`.

    The loader gets the helper process of the one before, where that left one: then there is nothing to warm.
    """
    record_settings = RecordSettings.for_test(data_dir)
    record = await start_server(RecordApplication(record_settings), record_settings)
    values = {"record_address": record.address, "import_roots": (models,), "descriptor_dir": data_dir / "fd"}
    values["keeper"] = "none"  # a process more for each loader of a test, which none of them kills
    if _spare:
        settings["warm_helper"] = False
    loader_settings = LoaderSettings.for_test(data_dir, **{**values, **settings})
    try:
        loader = await start_server(LoaderApplication(loader_settings), loader_settings)
        app = cast(OpenLoader, loader.service)
        assert (app.warming is not None) == loader_settings.warm_helper
        _spare.lend(app.helper)
        try:
            async with (
                grpc.aio.insecure_channel(loader.address) as channel,
                grpc.aio.insecure_channel(record.address) as records,
            ):
                yield Lender(
                    loader_service_pb2_grpc.LoaderServiceStub(channel),
                    record_service_pb2_grpc.RecordServiceStub(records),
                    loader.address,
                    models,
                    app,
                    record.address,
                )
        finally:
            _spare.take(app.helper)
            await loader.stop()
    finally:
        await record.stop()


def component(key: str, submodel: str = "", precision: str = "auto") -> resident_pb2.ComponentRef:
    """The message that names a component."""
    return resident_pb2.ComponentRef(
        key=key,
        submodel=f"SUB_MODEL_TYPE_{(submodel or 'unspecified').upper()}",
        precision=f"PRECISION_{precision.upper()}",
    )
