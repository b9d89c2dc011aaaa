"""RecordService on the wire: requests to the domain and the store, and answers back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from modelkeep.configs.wire import is_known_kind
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import batch_delete_pb2 as batch_pb
from modelkeep.record.v1 import marks_pb2, tags_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as pb_grpc
from modelkeep_common.auth import ADMIN, INSTALL
from modelkeep_common.calls import current_call
from modelkeep_common.calls.authentication import need_role
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.paging import MAX_PAGE_BYTES, clamp_page_size, decode_page_token, encode_page_token
from modelkeep_common.watch import WatchHub, stream_frames
from modelkeep_common.wire import to_seconds, to_timestamp, total

from . import convert
from .domain import rules
from .stores.sqlite import Once, SqliteRecordStore

#: A batch is cut here, below the 4 MiB that clients receive by default.
_MAX_BATCH_BYTES = 3 << 20
#: A request with long lists, over which the event loop must not wait.
_LARGE_BYTES = 64 << 10


class RecordServicer(pb_grpc.RecordServiceServicer):
    """The methods are those of the .proto, which says what they do."""

    def __init__(self, store: SqliteRecordStore, hub: WatchHub[Model]) -> None:
        self._store = store
        self._hub = hub

    async def CreateModel(self, request: pb.CreateModelRequest, context: object) -> pb.CreateModelResponse:
        def unit(records: rules.Records) -> bytes:
            model = rules.create(records, request.model, request.files, time.time())
            return pb.CreateModelResponse(model=model, revision=model.revision).SerializeToString()

        once = await _once(request, request.request_id)
        return pb.CreateModelResponse.FromString(await self._store.write(unit, once, grows=True))

    async def GetModel(self, request: pb.GetModelRequest, context: object) -> pb.GetModelResponse:
        message = await self._store.get(request.key)
        if message is None:
            raise rules.unknown_model(request.key)
        response = pb.GetModelResponse()
        response.model.ParseFromString(message)
        return response

    async def BatchGetModels(
        self, request: pb.BatchGetModelsRequest, context: object
    ) -> pb.BatchGetModelsResponse:
        found = await self._store.get_many(list(request.keys))
        response = pb.BatchGetModelsResponse()
        size = 0
        for key in request.keys:
            if key not in found:
                response.missing_keys.append(key)
            elif response.models and size + len(found[key]) > _MAX_BATCH_BYTES:
                response.deferred_keys.append(key)
            else:
                size += len(found[key])
                response.models.add().ParseFromString(found[key])
        return response

    async def FindModel(self, request: pb.FindModelRequest, context: object) -> pb.FindModelResponse:
        count, message = await self._store.find(request.name, request.base, request.type)
        if count == 1:
            response = pb.FindModelResponse()
            response.model.ParseFromString(message)
            return response
        raise rules.not_the_only_one(
            count, request.name, request.base, taxonomy_pb2.ModelType.Name(request.type)
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:
        asked = fingerprint(request, without=("page_size", "page_token"))
        order = convert.to_order(request.order)
        page = await self._store.page(
            convert.to_query(request.filter),
            order,
            request.descending,
            decode_page_token(request.page_token, asked, order.kinds),
            clamp_page_size(request.page_size),
            MAX_PAGE_BYTES,
        )
        response = pb.ListModelsResponse()
        for message in page.messages:
            model = response.models.add()
            model.ParseFromString(message)
            if request.view != pb.MODEL_VIEW_FULL:
                convert.to_basic(model)
        if not request.page_token:  # that of the first page covers what changes while the others are read
            response.resume_token = page.resume_token
        if page.position:
            response.next_page_token = encode_page_token(page.position, asked)
        return response

    async def ListModelFiles(
        self, request: pb.ListModelFilesRequest, context: object
    ) -> pb.ListModelFilesResponse:
        asked = fingerprint(request, without=("page_size", "page_token"))
        after = decode_page_token(request.page_token, asked, (str,))
        page = await self._store.files(
            request.key, str(after[0]) if after else "", clamp_page_size(request.page_size), MAX_PAGE_BYTES
        )
        if page is None:
            raise rules.unknown_model(request.key)
        response = pb.ListModelFilesResponse()
        for message in page.messages:
            response.files.add().ParseFromString(message)
        if page.position:
            response.next_page_token = encode_page_token(page.position, asked)
        return response

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: object) -> pb.UpdateModelResponse:
        rules.check_files_are_meant(request.files, request.replace_files)
        mask = request.update_mask if request.HasField("update_mask") else None
        files = request.files if request.replace_files else None

        call = current_call()

        def unit(records: rules.Records) -> bytes:
            model, lost = rules.update(
                records,
                request.model,
                mask,
                files,
                time.time(),
                lambda field: need_role(call, field, INSTALL, ADMIN),
                validate_only=request.validate_only,
            )
            answer = pb.UpdateModelResponse(model=model, revision=model.revision, lost_fields=lost)
            return answer.SerializeToString()

        if request.validate_only:
            return pb.UpdateModelResponse.FromString(await self._store.look(unit))
        once = await _once(request, request.request_id)
        return pb.UpdateModelResponse.FromString(await self._store.write(unit, once, grows=True))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: object) -> pb.DeleteModelResponse:
        def unit(records: rules.Records) -> bytes:
            model, revision = rules.delete(records, request.key, request.etag)
            return pb.DeleteModelResponse(model=model, revision=revision).SerializeToString()

        once = await _once(request, request.request_id)
        return pb.DeleteModelResponse.FromString(await self._store.write(unit, once))

    async def BatchDeleteModels(
        self, request: batch_pb.BatchDeleteModelsRequest, context: object
    ) -> batch_pb.BatchDeleteModelsResponse:
        def unit(records: rules.Records) -> bytes:
            answer = batch_pb.BatchDeleteModelsResponse()
            for key in request.keys:
                found = records.get(key) is not None
                (answer.deleted_keys if found else answer.missing_keys).append(key)
            for key in answer.deleted_keys:
                records.remove(key)
            answer.revision = records.next_revision() - 1
            return answer.SerializeToString()

        once = await _once(request, request.request_id)
        return batch_pb.BatchDeleteModelsResponse.FromString(await self._store.write(unit, once))

    async def MarkModels(
        self, request: marks_pb2.MarkModelsRequest, context: object
    ) -> marks_pb2.MarkModelsResponse:
        def unit(records: rules.Records) -> bytes:
            now = time.time()
            changed = sum(
                rules.mark(
                    records,
                    mark.key,
                    mark.missing,
                    (mark.path, mark.root_id) if mark.path else None,
                    now,
                )
                for mark in request.marks
            )
            revision = records.next_revision() - 1
            return marks_pb2.MarkModelsResponse(changed_count=changed, revision=revision).SerializeToString()

        once = await _once(request, "")
        return marks_pb2.MarkModelsResponse.FromString(await self._store.write(unit, once, grows=True))

    async def ListTags(self, request: tags_pb2.ListTagsRequest, context: object) -> tags_pb2.ListTagsResponse:
        asked = fingerprint(request, without=("page_size", "page_token"))
        after = decode_page_token(request.page_token, asked, (str,))
        size = clamp_page_size(request.page_size)
        found = await self._store.tags(request.prefix, str(after[0]) if after else "", size + 1)
        response = tags_pb2.ListTagsResponse()
        for tag, count in found[:size]:
            response.tags.add(tag=tag, count=count)
        if len(found) > size:
            response.next_page_token = encode_page_token([found[size - 1][0]], asked)
        return response

    async def WatchModels(  # type: ignore[override]  # frames are written to the context
        self, request: pb.WatchModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        watch = self._hub.watch(
            resume_token=request.resume_token,
            matches=_matcher(request.filter),
            snapshot=self._store.snapshot,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=to_seconds(request.bookmark_interval),
        )
        await stream_frames(context, watch, convert.to_watch_response)

    async def GetStoreInfo(self, request: pb.GetStoreInfoRequest, context: object) -> pb.GetStoreInfoResponse:
        info = await self._store.info()
        response = pb.GetStoreInfoResponse(
            schema_version=rules.SCHEMA_VERSION,
            backend="sqlite",
            store_id=info.store_id,
            revision=info.revision,
            oldest_revision=info.oldest_revision,
            create_time=to_timestamp(info.create_time),
            size_bytes=total(size for _, size in info.kinds.values()),
            missing_count=info.missing,
        )
        counts: dict[int, int] = {}
        for (type_, format_, base), (count, _) in info.kinds.items():
            counts[type_] = counts.get(type_, 0) + count
            response.model_count += count
            if not is_known_kind(type_, format_, base):
                response.unreadable_count += count
        for type_, count in sorted(counts.items()):
            response.counts.add(type=type_, count=count)
        return response


_EVERYTHING = convert.to_query(pb.ModelFilter())


def _matcher(filter: pb.ModelFilter) -> Callable[[Model], bool] | None:
    """What a watch lets through; None, which keeps nothing in memory, for everything."""
    query = convert.to_query(filter)
    return None if query == _EVERYTHING else query.matches


async def _once(request: Message, request_id: str) -> Once:
    """Taken on the event loop: the call does not follow to the database's thread."""
    call = current_call()
    if not request_id:
        mark = b""
    elif request.ByteSize() > _LARGE_BYTES:
        mark = await asyncio.to_thread(fingerprint, request)
    else:
        mark = fingerprint(request)
    return Once(request_id, mark, call.method, call.principal.name)
