"""RecordService on the wire: requests to the domain and the store, and answers back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from modelkeep.configs.wire import is_known_kind
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import backups_pb2, covers_pb2, exports_pb2, marks_pb2, tags_pb2
from modelkeep.record.v1 import batch_delete_pb2 as batch_pb
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as pb_grpc
from modelkeep_common.auth import ADMIN, INSTALL
from modelkeep_common.calls import current_call
from modelkeep_common.calls.authentication import need_role
from modelkeep_common.gates import too_many
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.paging import MAX_PAGE_BYTES, clamp_page_size, decode_page_token, encode_page_token
from modelkeep_common.watch import WatchHub, stream_frames, write_in_time
from modelkeep_common.wire import to_seconds, to_timestamp, total

from . import convert, transfers, units
from .domain import imports, rules
from .domain.covers import Cover, no_cover
from .stores.store import Once, RecordStore

#: A batch is cut here, below the 4 MiB that clients receive by default.
_MAX_BATCH_BYTES = 3 << 20
#: A request with long lists, over which the event loop must not wait.
_LARGE_BYTES = 64 << 10


class RecordServicer(pb_grpc.RecordServiceServicer):
    """The methods are those of the .proto, which says what they do."""

    def __init__(self, store: RecordStore, hub: WatchHub[Model]) -> None:
        self._store = store
        self._hub = hub
        #: Held while the store is copied.
        self._copying = asyncio.Lock()

    async def CreateModel(self, request: pb.CreateModelRequest, context: object) -> pb.CreateModelResponse:
        once = await _once(request, request.request_id)
        return pb.CreateModelResponse.FromString(
            await self._store.write(units.creating(request), once, grows=True)
        )

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
        call = current_call()
        unit = units.updating(request, lambda field: need_role(call, field, INSTALL, ADMIN))
        if request.validate_only:
            return pb.UpdateModelResponse.FromString(await self._store.look(unit))
        once = await _once(request, request.request_id)
        return pb.UpdateModelResponse.FromString(await self._store.write(unit, once, grows=True))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: object) -> pb.DeleteModelResponse:
        once = await _once(request, request.request_id)
        return pb.DeleteModelResponse.FromString(await self._store.write(units.deleting(request), once))

    async def BatchDeleteModels(
        self, request: batch_pb.BatchDeleteModelsRequest, context: object
    ) -> batch_pb.BatchDeleteModelsResponse:
        async def unit(records: rules.Records) -> bytes:
            deleted, missing = await rules.delete_many(records, request.keys, time.time())
            revision = await records.next_revision() - 1
            return batch_pb.BatchDeleteModelsResponse(
                deleted_keys=deleted, missing_keys=missing, revision=revision
            ).SerializeToString()

        once = await _once(request, request.request_id)
        return batch_pb.BatchDeleteModelsResponse.FromString(await self._store.write(unit, once))

    async def MarkModels(
        self, request: marks_pb2.MarkModelsRequest, context: object
    ) -> marks_pb2.MarkModelsResponse:
        async def unit(records: rules.Records) -> bytes:
            now = time.time()
            changed = 0
            for mark in request.marks:
                place = (mark.path, mark.root_id) if mark.path else None
                changed += await rules.mark(records, mark.key, mark.missing, place, now)
            revision = await records.next_revision() - 1
            return marks_pb2.MarkModelsResponse(changed_count=changed, revision=revision).SerializeToString()

        once = await _once(request, "")
        return marks_pb2.MarkModelsResponse.FromString(await self._store.write(unit, once, grows=True))

    async def ExportModels(  # type: ignore[override]  # frames are written to the context
        self, request: pb.ExportModelsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        query = convert.to_query(request.filter)
        async with (
            self._store.export(query, with_covers=request.with_covers) as export,
            contextlib.aclosing(transfers.frames(export)) as frames,
        ):
            async for frame in frames:
                data, remedy = frame.SerializeToString(), "Export again, and read faster."
                await write_in_time(context, data, self._hub.stall_s, {}, remedy=remedy)

    async def ImportModels(
        self, request: exports_pb2.ImportModelsRequest, context: object
    ) -> exports_pb2.ImportModelsResponse:
        entries = await asyncio.to_thread(transfers.checked, request)

        async def unit(records: rules.Records) -> bytes:
            seen = imports.Rehearsal(records) if request.validate_only else records
            results = await imports.import_models(seen, entries, request.on_conflict, time.time())
            revision = await records.next_revision() - 1
            return exports_pb2.ImportModelsResponse(results=results, revision=revision).SerializeToString()

        if request.validate_only:
            return exports_pb2.ImportModelsResponse.FromString(await self._store.look(unit))
        once = await _once(request, request.request_id)
        return exports_pb2.ImportModelsResponse.FromString(await self._store.write(unit, once, grows=True))

    async def SetCoverImage(
        self, request: covers_pb2.SetCoverImageRequest, context: object
    ) -> covers_pb2.SetCoverImageResponse:
        cover = await asyncio.to_thread(Cover.of, request.image)

        once = await _once(request, request.request_id)
        answer = await self._store.write(units.covering(request, cover), once, grows=True)
        return covers_pb2.SetCoverImageResponse.FromString(answer)

    async def GetCoverImage(
        self, request: covers_pb2.GetCoverImageRequest, context: object
    ) -> covers_pb2.GetCoverImageResponse:
        cover = await self._store.cover(request.key)
        if cover is not None:
            return covers_pb2.GetCoverImageResponse(cover_image=cover.facts, image=cover.image)
        there = await self._store.get(request.key) is not None
        raise no_cover(request.key) if there else rules.unknown_model(request.key)

    async def DeleteCoverImage(
        self, request: covers_pb2.DeleteCoverImageRequest, context: object
    ) -> covers_pb2.DeleteCoverImageResponse:
        once = await _once(request, request.request_id)
        answer = await self._store.write(units.covering(request, None), once)
        return covers_pb2.DeleteCoverImageResponse.FromString(answer)

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

    async def BackUpStore(
        self, request: backups_pb2.BackUpStoreRequest, context: object
    ) -> backups_pb2.BackUpStoreResponse:
        now = time.time()
        name = request.name or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        if self._copying.locked():
            raise too_many("backup", 1)
        async with self._copying:
            made = await self._store.back_up(name)
        return backups_pb2.BackUpStoreResponse(
            path=str(made.path),
            size_bytes=made.size_bytes,
            revision=made.revision,
            create_time=to_timestamp(now),
        )

    async def GetStoreInfo(self, request: pb.GetStoreInfoRequest, context: object) -> pb.GetStoreInfoResponse:
        info = await self._store.info()
        response = pb.GetStoreInfoResponse(
            schema_version=rules.SCHEMA_VERSION,
            backend=self._store.backend,
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
    """Taken on the event loop: the call does not follow to a store's thread."""
    call = current_call()
    if not request_id:
        mark = b""
    elif request.ByteSize() > _LARGE_BYTES:
        mark = await asyncio.to_thread(fingerprint, request)
    else:
        mark = fingerprint(request)
    return Once(request_id, mark, call.method, call.principal.name)
