"""RecordService, DownloadService and LoaderService over gRPC, behind the domain's ports."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.download.v1 import download_service_pb2 as download_pb
from modelkeep.download.v1 import download_service_pb2_grpc
from modelkeep.download.v1.resolve_pb2 import ResolveSourceRequest
from modelkeep.exceptions import (
    CancelledException,
    ModelkeepError,
    UnknownJobIDException,
    UnknownModelException,
    WrongStateException,
)
from modelkeep.loader.v1 import leases_pb2, loader_service_pb2_grpc
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep.record.v1 import record_service_pb2_grpc
from modelkeep.record.v1.covers_pb2 import DeleteCoverImageRequest, SetCoverImageRequest
from modelkeep.record.v1.exports_pb2 import IMPORT_CONFLICT_SKIP, ExportedModel, ImportModelsRequest
from modelkeep.record.v1.marks_pb2 import MarkModelsRequest, ModelMark
from modelkeep.rpc import Address, decode, unreachable
from modelkeep_common.watch.frames import chunked

from . import convert
from .domain.plans import Plan, Remote
from .domain.ports import (
    DownloadNews,
    DownloadOrder,
    DownloadStatus,
    LeaseHeld,
    Mark,
    RecordFile,
    RecordNews,
    StoredModel,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: The queue that the installer's downloads belong to.
QUEUE = "install"

_DEADLINE_S = 20.0
#: A listing of a large repository takes several questions, and each may be asked again.
_RESOLVE_DEADLINE_S = 120.0
#: A loader that hangs keeps nobody from deleting.
_LEASES_DEADLINE_S = 5.0
#: Records that a search gives at most.
MAX_FOUND = 16
#: Paths that a search takes.
_PATHS = 64
#: Records of one import, and their bytes.
_IMPORTED, _IMPORTED_BYTES = 100, 2 << 20


class _Peer:
    """A service and where it is."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def _call(self, call: Awaitable[T]) -> T:
        with _translated(self._address):
            return await call


class Records(_Peer):
    """RecordService."""

    def __init__(self, channel: grpc.aio.Channel, address: Address) -> None:
        super().__init__(address)
        self._stub: Any = record_service_pb2_grpc.RecordServiceStub(channel)

    async def create(self, model: Model, files: Sequence[RecordFile], request_id: str) -> StoredModel:
        request = record_pb.CreateModelRequest(
            model=model, files=map(convert.file_message, files), request_id=request_id
        )
        answer = await self._call(self._stub.CreateModel(request, timeout=_DEADLINE_S))
        return convert.stored_model_of(answer.model)

    async def get(self, key: str) -> StoredModel:
        answer = await self._call(
            self._stub.GetModel(record_pb.GetModelRequest(key=key), timeout=_DEADLINE_S)
        )
        return convert.stored_model_of(answer.model)

    async def find(
        self, *, paths: Sequence[str] = (), root_id: str = "", source: str = "", hash: str = ""
    ) -> list[StoredModel]:
        filter = record_pb.ModelFilter(paths=paths, root_id=root_id, source=source, hash=hash)
        request = record_pb.ListModelsRequest(
            filter=filter,
            view=record_pb.MODEL_VIEW_FULL,
            order=record_pb.MODEL_ORDER_CREATE_TIME,
            page_size=MAX_FOUND,
        )
        answer = await self._call(self._stub.ListModels(request, timeout=_DEADLINE_S))
        return [convert.stored_model_of(model) for model in answer.models]

    async def all(self) -> list[StoredModel]:
        found: list[StoredModel] = []
        token = ""
        while True:
            request = record_pb.ListModelsRequest(
                view=record_pb.MODEL_VIEW_BASIC, page_size=1000, page_token=token
            )
            answer = await self._call(self._stub.ListModels(request, timeout=_DEADLINE_S))
            found += (StoredModel(m.key, m.etag, m.path, m.root_id, b"") for m in answer.models)
            token = answer.next_page_token
            if not token:
                return found

    async def files(self, key: str) -> list[RecordFile]:
        found: list[RecordFile] = []
        token = ""
        while True:
            request = record_pb.ListModelFilesRequest(key=key, page_size=1000, page_token=token)
            try:
                answer = await self._call(self._stub.ListModelFiles(request, timeout=_DEADLINE_S))
            except UnknownModelException:
                return []
            found += map(convert.file_of, answer.files)
            token = answer.next_page_token
            if not token:
                return found

    async def replace_files(self, key: str, files: Sequence[RecordFile], request_id: str) -> None:
        request = record_pb.UpdateModelRequest(
            model=Model(key=key),
            files=map(convert.file_message, files),
            replace_files=True,
            request_id=request_id,
        )
        await self._call(self._stub.UpdateModel(request, timeout=_DEADLINE_S))

    async def follow(self, resume_token: str) -> AsyncIterator[RecordNews]:
        call = self._stub.WatchModels(record_pb.WatchModelsRequest(resume_token=resume_token))
        try:
            with _translated(self._address):
                async for frame in call:
                    yield convert.record_news_of(frame)
        finally:
            call.cancel()

    async def mark(self, marks: Sequence[Mark]) -> int:
        request = MarkModelsRequest(marks=[ModelMark(**mark._asdict()) for mark in marks])
        answer = await self._call(self._stub.MarkModels(request, timeout=_DEADLINE_S))
        return int(answer.changed_count)

    async def relink(
        self, model: StoredModel, path: str, root_id: str, files: Sequence[RecordFile]
    ) -> StoredModel:
        request = record_pb.UpdateModelRequest(
            model=Model(key=model.key, etag=model.etag, path=path, root_id=root_id),
            update_mask=FieldMask(paths=["path", "root_id"]),
            files=map(convert.file_message, files),
            replace_files=True,
        )
        answer = await self._call(self._stub.UpdateModel(request, timeout=_DEADLINE_S))
        return convert.stored_model_of(answer.model)

    async def batch(self, keys: Sequence[str]) -> dict[str, Model]:
        found: dict[str, Model] = {}
        rest = list(keys)
        while rest:
            answer = await self._call(
                self._stub.BatchGetModels(record_pb.BatchGetModelsRequest(keys=rest), timeout=_DEADLINE_S)
            )
            found |= {model.key: model for model in answer.models}
            rest = list(answer.deferred_keys)
        return found

    async def at_paths(self, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Model]:
        found: dict[tuple[str, str], Model] = {}
        for first in range(0, len(places), _PATHS):
            filter = record_pb.ModelFilter(paths=[path for path, _ in places[first : first + _PATHS]])
            token = ""
            while True:
                request = record_pb.ListModelsRequest(
                    filter=filter, view=record_pb.MODEL_VIEW_FULL, page_size=1000, page_token=token
                )
                answer = await self._call(self._stub.ListModels(request, timeout=_DEADLINE_S))
                found |= {(model.path, model.root_id): model for model in answer.models}
                token = answer.next_page_token
                if not token:
                    break
        return found

    async def add(
        self, models: Sequence[tuple[Model, Sequence[RecordFile], bytes]], *, validate_only: bool
    ) -> list[ModelkeepError | None]:
        entries = [
            ExportedModel(model=model, files=map(convert.file_message, files), cover_image=picture)
            for model, files, picture in models
        ]
        errors: list[ModelkeepError | None] = []
        for part in chunked(entries, ExportedModel.ByteSize, _IMPORTED, _IMPORTED_BYTES):
            request = ImportModelsRequest(
                models=part, on_conflict=IMPORT_CONFLICT_SKIP, validate_only=validate_only
            )
            answer = await self._call(self._stub.ImportModels(request, timeout=_DEADLINE_S))
            errors += map(convert.import_error_of, answer.results)
        return errors

    async def change(
        self,
        model: Model,
        paths: Sequence[str],
        *,
        files: Sequence[RecordFile] | None,
        picture: bytes | None,
    ) -> None:
        if picture is not None:
            model.etag = await self._set_picture(model.key, model.etag, picture)
        request = record_pb.UpdateModelRequest(
            model=model,
            update_mask=FieldMask(paths=paths),
            files=map(convert.file_message, files or ()),
            replace_files=files is not None,
        )
        await self._call(self._stub.UpdateModel(request, timeout=_DEADLINE_S))

    async def _set_picture(self, key: str, etag: str, picture: bytes) -> str:
        """The record's etag after that."""
        if picture:
            setting = SetCoverImageRequest(key=key, etag=etag, image=picture)
            set_answer = await self._call(self._stub.SetCoverImage(setting, timeout=_DEADLINE_S))
            return str(set_answer.model.etag)
        deleting = DeleteCoverImageRequest(key=key, etag=etag)
        answer = await self._call(self._stub.DeleteCoverImage(deleting, timeout=_DEADLINE_S))
        return str(answer.model.etag)

    async def delete(self, key: str, etag: str, request_id: str) -> int:
        request = record_pb.DeleteModelRequest(key=key, etag=etag, request_id=request_id)
        answer = await self._call(self._stub.DeleteModel(request, timeout=_DEADLINE_S))
        return int(answer.revision)


class Downloads(_Peer):
    """DownloadService."""

    def __init__(self, channel: grpc.aio.Channel, address: Address) -> None:
        super().__init__(address)
        self._stub: Any = download_service_pb2_grpc.DownloadServiceStub(channel)
        #: What was told last of each download, over all watches: one that resumes tells no snapshot.
        self._told: dict[int, DownloadStatus] = {}

    async def resolve(self, remote: Remote, access_token: str) -> Plan:
        request = ResolveSourceRequest(source=convert.remote_message(remote), access_token=access_token)
        answer = await self._call(self._stub.ResolveSource(request, timeout=_RESOLVE_DEADLINE_S))
        return convert.plan_of(answer.plan)

    async def create(self, order: DownloadOrder) -> DownloadStatus:
        request = download_pb.CreateDownloadRequest(**convert.order_fields(order), queue=QUEUE)
        answer = await self._call(self._stub.CreateDownload(request, timeout=_DEADLINE_S))
        return convert.download_of(answer.download)

    async def get(self, download_id: int) -> DownloadStatus:
        request = download_pb.GetDownloadRequest(id=download_id)
        answer = await self._call(self._stub.GetDownload(request, timeout=_DEADLINE_S))
        return convert.download_of(answer.download)

    async def start(self, download_id: int, access_token: str, source_url: str) -> DownloadStatus:
        request = download_pb.StartDownloadRequest(
            id=download_id, access_token=access_token, source_url=source_url
        )
        answer = await self._call(self._stub.StartDownload(request, timeout=_DEADLINE_S))
        return convert.download_of(answer.download)

    async def pause(self, download_id: int) -> None:
        request = download_pb.PauseDownloadRequest(id=download_id)
        await self._call(self._stub.PauseDownload(request, timeout=_DEADLINE_S))

    async def cancel(self, download_id: int) -> None:
        request = download_pb.CancelDownloadRequest(id=download_id)
        with contextlib.suppress(UnknownJobIDException, WrongStateException):
            await self._call(self._stub.CancelDownload(request, timeout=_DEADLINE_S))

    async def prune(self) -> None:
        request = download_pb.PruneDownloadsRequest(queue=QUEUE)
        await self._call(self._stub.PruneDownloads(request, timeout=_DEADLINE_S))

    async def watch(self, resume_token: str) -> AsyncIterator[DownloadNews]:
        request = download_pb.WatchDownloadsRequest(queue=QUEUE, resume_token=resume_token)
        call = self._stub.WatchDownloads(request)
        try:
            with _translated(self._address):
                async for frame in call:
                    yield convert.news_of(frame, self._told)
        finally:
            call.cancel()  # left early or not: a stream that is dropped uncancelled lives on


class Leases(_Peer):
    """LoaderService: who uses a model."""

    def __init__(self, channel: grpc.aio.Channel, address: Address) -> None:
        super().__init__(address)
        self._stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)

    async def leases(self, key: str) -> list[LeaseHeld] | None:
        request = leases_pb2.ListLeasesRequest(key=key, page_size=1000)
        try:
            answer = await self._call(self._stub.ListLeases(request, timeout=_LEASES_DEADLINE_S))
        except ModelkeepError as error:
            _log.warning("who uses %s cannot be told: %s", key, error)
            return None
        return [convert.lease_of(lease) for lease in answer.leases]


@contextlib.contextmanager
def _translated(address: Address) -> Iterator[None]:
    """What the peer raised is raised here."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raised = decode(error, address)
        if isinstance(raised, CancelledException):
            # Nobody here cancelled it: the peer went away in the middle.
            raised = unreachable(address, "it ended the call")
        if type(raised) is ModelkeepError:
            name = f"{address.service.capitalize()}Service"
            raised = ModelkeepError(f"{name} failed: {raised.message}", metadata=raised.metadata)
        raise raised from error
