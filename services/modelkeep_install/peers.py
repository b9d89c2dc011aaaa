"""RecordService and DownloadService over gRPC, behind the domain's ports."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from modelkeep.download.v1 import download_service_pb2 as download_pb
from modelkeep.download.v1 import download_service_pb2_grpc
from modelkeep.exceptions import (
    BY_REASON,
    DeadlineExceededException,
    FieldViolation,
    ModelkeepError,
    ServerBusyException,
    UnknownJobIDException,
    UnknownModelException,
    UpstreamUnavailableException,
    WrongStateException,
)
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep.record.v1 import record_service_pb2_grpc

from . import convert
from .domain_ports import DownloadNews, DownloadOrder, DownloadStatus, ModelDraft, RecordFile, StoredModel

T = TypeVar("T")

#: The queue that the installer's downloads belong to.
QUEUE = "install"

_DEADLINE_S = 20.0
_OPTIONS: Sequence[tuple[str, Any]] = (
    # a peer that comes back is found within a second or two, not within minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.max_receive_message_length", 16 << 20),
    # a proxy in the environment is for the internet, which this service never talks to
    ("grpc.enable_http_proxy", 0),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a peer; connects when it is first used. In plaintext: loopback, or inside a mesh."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


class Records:
    """RecordService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = record_service_pb2_grpc.RecordServiceStub(channel)

    async def create(self, draft: ModelDraft, files: Sequence[RecordFile], request_id: str) -> StoredModel:
        request = record_pb.CreateModelRequest(
            model=convert.record_message(draft), files=map(convert.file_message, files), request_id=request_id
        )
        answer = await _call("RecordService", self._stub.CreateModel(request, timeout=_DEADLINE_S))
        return convert.stored_model_of(answer.model)

    async def get(self, key: str) -> StoredModel:
        answer = await _call(
            "RecordService", self._stub.GetModel(record_pb.GetModelRequest(key=key), timeout=_DEADLINE_S)
        )
        return convert.stored_model_of(answer.model)

    async def all(self) -> list[StoredModel]:
        found: list[StoredModel] = []
        token = ""
        while True:
            request = record_pb.ListModelsRequest(
                view=record_pb.MODEL_VIEW_BASIC, page_size=1000, page_token=token
            )
            answer = await _call("RecordService", self._stub.ListModels(request, timeout=_DEADLINE_S))
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
                answer = await _call("RecordService", self._stub.ListModelFiles(request, timeout=_DEADLINE_S))
            except UnknownModelException:
                return []
            found += map(convert.file_of, answer.files)
            token = answer.next_page_token
            if not token:
                return found

    async def replace_files(self, key: str, files: Sequence[RecordFile], request_id: str) -> None:
        request = record_pb.UpdateModelRequest(
            model=model_pb2.Model(key=key),
            files=map(convert.file_message, files),
            replace_files=True,
            request_id=request_id,
        )
        await _call("RecordService", self._stub.UpdateModel(request, timeout=_DEADLINE_S))

    async def delete(self, key: str, etag: str, request_id: str) -> int:
        request = record_pb.DeleteModelRequest(key=key, etag=etag, request_id=request_id)
        answer = await _call("RecordService", self._stub.DeleteModel(request, timeout=_DEADLINE_S))
        return int(answer.revision)


class Downloads:
    """DownloadService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = download_service_pb2_grpc.DownloadServiceStub(channel)
        #: What was told last of each download, over all watches: one that resumes tells no snapshot.
        self._told: dict[int, DownloadStatus] = {}

    async def create(self, order: DownloadOrder) -> DownloadStatus:
        request = download_pb.CreateDownloadRequest(**convert.order_fields(order), queue=QUEUE)
        answer = await _call("DownloadService", self._stub.CreateDownload(request, timeout=_DEADLINE_S))
        return convert.download_of(answer.download)

    async def get(self, download_id: int) -> DownloadStatus:
        request = download_pb.GetDownloadRequest(id=download_id)
        answer = await _call("DownloadService", self._stub.GetDownload(request, timeout=_DEADLINE_S))
        return convert.download_of(answer.download)

    async def start(self, download_id: int, access_token: str, source_url: str) -> DownloadStatus:
        request = download_pb.StartDownloadRequest(
            id=download_id, access_token=access_token, source_url=source_url
        )
        answer = await _call("DownloadService", self._stub.StartDownload(request, timeout=_DEADLINE_S))
        return convert.download_of(answer.download)

    async def cancel(self, download_id: int) -> None:
        request = download_pb.CancelDownloadRequest(id=download_id)
        with contextlib.suppress(UnknownJobIDException, WrongStateException):
            await _call("DownloadService", self._stub.CancelDownload(request, timeout=_DEADLINE_S))

    async def prune(self) -> None:
        request = download_pb.PruneDownloadsRequest(queue=QUEUE)
        await _call("DownloadService", self._stub.PruneDownloads(request, timeout=_DEADLINE_S))

    async def watch(self, resume_token: str) -> AsyncIterator[DownloadNews]:
        request = download_pb.WatchDownloadsRequest(queue=QUEUE, resume_token=resume_token)
        call = self._stub.WatchDownloads(request)
        try:
            with _translated("DownloadService"):
                async for frame in call:
                    yield convert.news_of(frame, self._told)
        finally:
            call.cancel()  # left early or not: a stream that is dropped uncancelled lives on


async def _call(peer: str, call: Awaitable[T]) -> T:
    with _translated(peer):
        return await call


@contextlib.contextmanager
def _translated(peer: str) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        _raise(peer, error)


def _raise(peer: str, error: grpc.aio.AioRpcError) -> NoReturn:
    """Raises what the peer raised, by its reason; without one, what the status code means for us."""
    details = error.details() or error.code().name
    status = _status(error)
    if status is not None:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
        if info.reason in BY_REASON and info.reason != "INTERNAL":
            violations = [FieldViolation(found.field, found.description) for found in bad.field_violations]
            kind = BY_REASON[info.reason]
            raise kind(status.message, metadata=dict(info.metadata), violations=violations) from error
    metadata = {"peer": peer, "code": error.code().name}
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            raise UpstreamUnavailableException(
                f"{peer} does not answer: {details}.", metadata=metadata
            ) from error
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceededException(f"{peer} did not answer in time.", metadata=metadata) from error
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise ServerBusyException(f"{peer} is busy: {details}.", metadata=metadata) from error
    raise ModelkeepError(f"{peer} failed: {details}", metadata=metadata) from error


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return None
