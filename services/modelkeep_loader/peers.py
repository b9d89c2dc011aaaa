"""RecordService, as far as the loader needs it: one record, and the files of one model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence

import grpc.aio

from modelkeep.configs.fields import readable_values
from modelkeep.configs.wire import config_values
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2, record_service_pb2_grpc
from modelkeep.rpc import Address, decode, open_async_channel, with_retries
from modelkeep_common.wire import to_seconds
from modelkeep_loader.domain.records import FileFacts, Record, Removals

_TIMEOUT_S = 10.0
_PAGE = 1000
#: Records that are kept as they were read last, to make nothing anew of them; and bytes of one of them.
_MOST_KEPT, _MOST_KEPT_BYTES = 256, 64 << 10


class RecordClient:
    """A :class:`modelkeep_loader.domain.records.FollowedRecords` over gRPC.

    Args:
        address: Of RecordService.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._channel = open_async_channel(address, with_retries())
        self._stub = record_service_pb2_grpc.RecordServiceStub(self._channel)
        self._read: OrderedDict[str, tuple[model_pb2.Model, Record]] = OrderedDict()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def get(self, key: str) -> Record:
        """See :class:`modelkeep_loader.domain.records.Records`."""
        try:
            response = await self._stub.GetModel(
                record_service_pb2.GetModelRequest(key=key), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise decode(error, self._address) from None
        return self._record_of(response.model)

    def _record_of(self, model: model_pb2.Model) -> Record:
        """What the loader needs of a record; the same object as long as all of the record is the same."""
        before = self._read.pop(model.key, None)
        record = before[1] if before is not None and before[0] == model else to_record(model)
        if model.ByteSize() <= _MOST_KEPT_BYTES:
            self._read[model.key] = model, record
            if len(self._read) > _MOST_KEPT:
                self._read.popitem(last=False)
        return record

    async def files(self, key: str) -> Mapping[str, FileFacts]:
        """See :class:`modelkeep_loader.domain.records.Records`."""
        found: dict[str, FileFacts] = {}
        token = ""
        try:
            while True:
                request = record_service_pb2.ListModelFilesRequest(key=key, page_size=_PAGE, page_token=token)
                page = await self._stub.ListModelFiles(request, timeout=_TIMEOUT_S)
                found.update({file.path: to_file(file) for file in page.files})
                token = page.next_page_token
                if not token:
                    return found
        except grpc.aio.AioRpcError as error:
            raise decode(error, self._address) from None

    async def owner(self, paths: Sequence[str], root_id: str) -> Record | None:
        """See :class:`modelkeep_loader.domain.records.Records`."""
        wanted = record_service_pb2.ModelFilter(paths=paths, root_id=root_id)
        request = record_service_pb2.ListModelsRequest(filter=wanted, page_size=len(paths))
        try:
            response = await self._stub.ListModels(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise decode(error, self._address) from None
        found = max(response.models, key=lambda model: len(model.path), default=None)
        return to_record(found) if found is not None else None

    async def removals(self, resume_token: str) -> AsyncIterator[Removals]:
        """See :class:`modelkeep_loader.domain.records.FollowedRecords`."""
        call = self._stub.WatchModels(
            record_service_pb2.WatchModelsRequest(resume_token=resume_token, skip_snapshot=True)
        )
        try:
            async for frame in call:
                gone = [event.removed_key for event in frame.events if event.HasField("removed_key")]
                yield Removals(frame.resume_token, gone)
        except grpc.aio.AioRpcError as error:
            raise decode(error, self._address) from None
        finally:
            call.cancel()  # left early or not: a stream that is dropped uncancelled lives on


def to_record(model: model_pb2.Model) -> Record:
    """What the loader needs of a record."""
    kind = readable_values(model, ("type", "format"))
    return Record(
        key=model.key,
        revision=model.revision,
        name=model.name,
        type=str(kind.get("type", "unknown")),
        format=str(kind.get("format", "unknown")),
        base=model.base,
        path=model.path,
        root_id=model.root_id,
        hash=model.current_hash or model.original_hash,
        config=config_values(model),
    )


def to_file(file: model_pb2.ModelFile) -> FileFacts:
    """What the loader needs of a file."""
    # The one that is quicker to compute, if there are both.
    digest = f"blake3:{file.blake3}" if file.blake3 else f"sha256:{file.sha256}" if file.sha256 else ""
    seconds = to_seconds(file.modify_time) if file.HasField("modify_time") else None
    return FileFacts(file.size_bytes, seconds, digest)
