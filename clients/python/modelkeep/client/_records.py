"""RecordService under the original's names: configs in, configs out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from modelkeep.client import _exports
from modelkeep.client._exports import ExportSource, ImportedRecord, OnConflict
from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchEvent, WatchFrame, follow
from modelkeep.configs import AnyModelConfig, ModelFile
from modelkeep.configs.wire import from_file, from_model
from modelkeep.messages import made
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import backups_pb2, covers_pb2, marks_pb2, tags_pb2
from modelkeep.record.v1 import batch_delete_pb2 as batch_pb
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceStub
from modelkeep.records import RecordMethods, model_filter, read_picture

if TYPE_CHECKING:
    from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceAsyncStub

#: Seconds that a copy of the store may take.
_BACK_UP_S: Final = 600.0
#: How many keys a call names at most.
_BATCH: Final = 1000

#: Finds the folders that hold installed models: (absolute path, root id) of each.
FindRoots: TypeAlias = Callable[[], Awaitable[Sequence[tuple[str, str]]]]


class AsyncModelRecordStore(RecordMethods):
    """What models there are. Methods that list follow all pages by themselves."""

    def __init__(self, peer: Peer, find_roots: FindRoots) -> None:
        self._peer = peer
        self._ask_roots = find_roots

    @property
    def _stub(self) -> RecordServiceAsyncStub:
        return RecordServiceStub(self._peer.channel)

    # -- what RecordMethods asks --------------------------------------------------------------------------

    async def _get(self, request: pb.GetModelRequest) -> Model:
        return (await self._peer.call(self._stub.GetModel, request)).model

    async def _find(self, request: pb.FindModelRequest) -> Model:
        return (await self._peer.call(self._stub.FindModel, request)).model

    async def _list(self, request: pb.ListModelsRequest) -> list[Model]:
        pages = self._peer.pages(self._stub.ListModels, request)
        return [model async for page in pages for model in page.models]

    async def _create(self, request: pb.CreateModelRequest) -> Model:
        return (await self._peer.call(self._stub.CreateModel, request)).model

    async def _change(self, request: pb.UpdateModelRequest) -> pb.UpdateModelResponse:
        return await self._peer.call(self._stub.UpdateModel, request)

    async def _delete(self, request: pb.DeleteModelRequest) -> None:
        await self._peer.call(self._stub.DeleteModel, request)

    async def _set_cover(self, request: covers_pb2.SetCoverImageRequest) -> Model:
        return (await self._peer.call(self._stub.SetCoverImage, request)).model

    async def _get_cover(self, request: covers_pb2.GetCoverImageRequest) -> bytes:
        return (await self._peer.call(self._stub.GetCoverImage, request)).image

    async def _delete_cover(self, request: covers_pb2.DeleteCoverImageRequest) -> Model:
        return (await self._peer.call(self._stub.DeleteCoverImage, request)).model

    async def _read(self, path: os.PathLike[str] | str) -> bytes:
        return await asyncio.to_thread(read_picture, path)

    async def _find_roots(self) -> Sequence[tuple[str, str]]:
        return await self._ask_roots()

    # -- reading ------------------------------------------------------------------------------------------

    async def get_models(self, keys: Sequence[str]) -> list[AnyModelConfig]:
        """The configs of those of the keys that have one, in their order."""
        found: list[AnyModelConfig] = []
        left = list(keys)
        while left:
            batch, left = left[:_BATCH], left[_BATCH:]
            answer = await self._peer.call(
                self._stub.BatchGetModels, made(pb.BatchGetModelsRequest, keys=batch)
            )
            found += map(from_model, answer.models)
            left = [*answer.deferred_keys, *left]
        return found

    async def list_files(self, key: str) -> list[ModelFile]:
        """The files of a model, ordered by path."""
        pages = self._peer.pages(self._stub.ListModelFiles, made(pb.ListModelFilesRequest, key=key))
        return [from_file(file) async for page in pages for file in page.files]

    async def tags(self, prefix: str = "") -> dict[str, int]:
        """The tags that models have, in order, with the number of models of each."""
        pages = self._peer.pages(self._stub.ListTags, made(tags_pb2.ListTagsRequest, prefix=prefix))
        return {tag.tag: tag.count async for page in pages for tag in page.tags}

    async def version(self) -> str:
        """Version of the store's data model: "3.2"."""
        return (await self.store_info()).schema_version

    async def store_info(self) -> pb.GetStoreInfoResponse:
        """Schema version, backend, revision and counts of the store."""
        return await self._peer.call(self._stub.GetStoreInfo, pb.GetStoreInfoRequest())

    def watch(
        self,
        *,
        base: str | Sequence[str] | None = None,
        type: str | Sequence[str] | None = None,
        format: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        text: str | None = None,
        missing: bool | None = None,
        related_to: str | None = None,
        resume_token: str = "",
        skip_snapshot: bool = False,
    ) -> AsyncGenerator[WatchFrame[AnyModelConfig]]:
        """A snapshot of the models, then every change; goes on by itself when the service was away.

        Args:
            base: As in :meth:`list_models`, and so are type, format, tags, labels and text.
            type: One of these types.
            format: One of these formats.
            tags: All of these tags.
            labels: All of these labels.
            text: Words that all occur.
            missing: Whether the model's files are gone; None: either.
            related_to: Key of a model that they are related to.
            resume_token: Place to go on from, out of an earlier frame; empty: a snapshot first.
            skip_snapshot: Without a token: only changes from now on.
        """
        request = made(
            pb.WatchModelsRequest,
            filter=model_filter(
                base=base,
                type=type,
                format=format,
                tags=tags,
                labels=labels,
                text=text,
                missing=missing,
                related_to=related_to,
            ),
            resume_token=resume_token,
            skip_snapshot=skip_snapshot,
        )
        return follow(self._peer, lambda to: RecordServiceStub(to).WatchModels, request, _events)

    def export(
        self,
        *,
        base: str | Sequence[str] | None = None,
        type: str | Sequence[str] | None = None,
        format: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        text: str | None = None,
        keys: Sequence[str] = (),
        related_to: str | None = None,
        missing: bool | None = None,
        with_covers: bool = True,
    ) -> AsyncGenerator[str]:
        """All models of one moment as lines of JSON, with their files; nothing of a record is lost.

        The first line tells the format, the last that nothing was cut off; each other has one record, or a
        part of a very large one. No line has an end. :meth:`import_` reads them.

        Args:
            base: As in :meth:`list_models`, and so are type, format, tags, labels, text and keys.
            type: One of these types.
            format: One of these formats.
            tags: All of these tags.
            labels: All of these labels.
            text: Words that all occur.
            keys: One of these keys, at most 1,000.
            related_to: Models that are related to the one with this key.
            missing: Whether the model's files are gone; None: either.
            with_covers: Whether the pictures that stand for the models come along.

        Raises:
            ServerBusyException: As many exports are under way as the service takes.
            DeadlineExceededException, WatcherTooSlowException: The lines were not read fast enough.
        """
        wanted = model_filter(
            base=base,
            type=type,
            format=format,
            tags=tags,
            labels=labels,
            text=text,
            keys=keys,
            related_to=related_to,
            missing=missing,
        )
        return _exports.export(self._peer, wanted, with_covers=with_covers)

    # -- writing ------------------------------------------------------------------------------------------

    async def mark_models(self, *, missing: Sequence[str] = (), found: Sequence[str] = ()) -> int:
        """Note of which models the files are gone, and of which they are there again.

        Args:
            missing: Keys of models whose files are not where their records say.
            found: Keys of those whose files are.

        Returns:
            How many records were not marked so before.
        """
        marks = [made(marks_pb2.ModelMark, key=key, missing=key in missing) for key in (*missing, *found)]
        batches = [marks[first : first + _BATCH] for first in range(0, len(marks), _BATCH)]
        requests = [marks_pb2.MarkModelsRequest(marks=batch) for batch in batches]
        answers = [await self._peer.call(self._stub.MarkModels, request) for request in requests]
        return sum(answer.changed_count for answer in answers)

    async def back_up(
        self, name: str = "", *, timeout: float = _BACK_UP_S
    ) -> backups_pb2.BackUpStoreResponse:
        """Copy the store, as it is at one moment and while it goes on, into a file beside it.

        Args:
            name: What the file is called, without a suffix: 1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-";
                "": the time in UTC.
            timeout: Seconds to wait for it.

        Returns:
            Its `path` on the service's host, `size_bytes`, `revision` of the store and `create_time`.

        Raises:
            DestinationExistsException: There is a copy of this name already.
            DiskFullException: There is no room for it; nothing of it is left.
        """
        request = made(backups_pb2.BackUpStoreRequest, name=name)
        return await self._peer.call(self._stub.BackUpStore, request, timeout=timeout)

    def import_(
        self,
        source: ExportSource,
        *,
        on_conflict: OnConflict = "skip",
        validate_only: bool = False,
    ) -> AsyncGenerator[ImportedRecord]:
        """Take over the models of an export, with their keys, hashes, files and times.

        All lines are looked at first: where one is no good, nothing is imported. Then up to a hundred records
        at a time are imported in one transaction. Importing the same again changes nothing.

        Args:
            source: The path of a file, compressed if it ends in ``.gz``; a file that can be sought in; or
                lines, which are kept in memory.
            on_conflict: What becomes of a model that is there already and is not equal: "skip" leaves it,
                "replace" replaces it as a whole, "fail" is an error before anything is imported.
            validate_only: Change nothing, and tell what would become of each; of a record in several parts
                the first is looked at.

        Returns:
            What became of each, one after the other; what is not taken is not imported.

        Raises:
            InvalidRequestException: A line is no good; with "fail" also, a record cannot be stored.
            DuplicateModelException: With "fail": a model is there already.
        """
        return _exports.import_lines(self._peer, source, on_conflict, validate_only=validate_only)

    async def del_models(self, keys: Sequence[str]) -> list[str]:
        """Delete several records; their files stay. Answers with the keys of those that there were."""
        deleted: list[str] = []
        for first in range(0, len(keys), _BATCH):
            request = made(batch_pb.BatchDeleteModelsRequest, keys=keys[first : first + _BATCH])
            deleted += (await self._peer.call(self._stub.BatchDeleteModels, request)).deleted_keys
        return deleted


def _events(frame: pb.WatchModelsResponse) -> list[WatchEvent[AnyModelConfig]]:
    return [
        WatchEvent(event.put.key, from_model(event.put), revision=event.revision)
        if event.WhichOneof("change") == "put"
        else WatchEvent(event.removed_key, None, revision=event.revision)
        for event in frame.events
    ]
