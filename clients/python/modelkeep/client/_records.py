"""RecordService under the original's names: configs in, configs out."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.client._merging import OUTPUT_ONLY, merge
from modelkeep.client._transport import Peer
from modelkeep.client._values import absolute, listed
from modelkeep.client._watch import WatchEvent, WatchFrame, follow
from modelkeep.configs import (
    AnyModelConfig,
    ModelConfigBase,
    ModelConfigFactory,
    ModelFile,
)
from modelkeep.configs.wire import from_file, from_model, to_file, to_model
from modelkeep.exceptions import (
    EtagMismatchException,
    UnknownModelException,
)
from modelkeep.messages import made, wire, wires
from modelkeep.record.v1 import batch_delete_pb2 as batch_pb
from modelkeep.record.v1 import marks_pb2, tags_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceStub
from modelkeep.taxonomy import BaseModelType, ModelFormat, ModelType

if TYPE_CHECKING:
    from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceAsyncStub

#: Sort key of a list.
Order: TypeAlias = Literal["name", "type", "size", "create_time", "update_time", "path"]

_KEY: Final = re.compile(r"[0-9a-f]{32}")
#: How many keys a call names at most.
_BATCH: Final = 1000
#: How often a change is tried that somebody else's comes between.
_TRIES: Final = 4

#: Finds the folders that hold installed models: (absolute path, root id) of each.
FindRoots: TypeAlias = Callable[[], Awaitable[Sequence[tuple[str, str]]]]


def model_filter(
    *,
    name: str | None = None,
    base: str | Sequence[str] | None = None,
    type: str | Sequence[str] | None = None,
    format: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    paths: Sequence[str] = (),
    hash: str | None = None,
    source: str | None = None,
    text: str | None = None,
    keys: Sequence[str] = (),
    key_prefix: str | None = None,
    name_caseless: str | None = None,
    missing: bool | None = None,
) -> pb.ModelFilter:
    """The message of a filter; see :meth:`AsyncModelRecordStore.list_models` for the arguments."""
    return made(
        pb.ModelFilter,
        name=name or "",
        bases=listed(base),
        types=wires(ModelType, listed(type), "filter.types"),
        formats=wires(ModelFormat, listed(format), "filter.formats"),
        tags=listed(tags),
        labels=labels,
        paths=paths,
        hash=hash or "",
        source=source or "",
        text=text or "",
        keys=keys,
        key_prefix=key_prefix or "",
        name_caseless=name_caseless or "",
        missing=missing,
    )


class UpdatePreview(NamedTuple):
    """What an update makes of a record."""

    #: The config as it is then.
    config: AnyModelConfig
    #: Settings that another type has no field for, and that are lost by it, such as ``main.variant``.
    lost_fields: tuple[str, ...]


class AsyncModelRecordStore:
    """What models there are. Methods that list follow all pages by themselves."""

    def __init__(self, peer: Peer, find_roots: FindRoots) -> None:
        self._peer = peer
        self._find_roots = find_roots

    @property
    def _stub(self) -> RecordServiceAsyncStub:
        return RecordServiceStub(self._peer.channel)

    # -- reading ------------------------------------------------------------------------------------------

    async def get_model(self, key: str) -> AnyModelConfig:
        """The config of a model.

        Raises:
            UnknownModelException: No record has this key.
        """
        answer = await self._peer.call(self._stub.GetModel, made(pb.GetModelRequest, key=key))
        return from_model(answer.model)

    async def exists(self, key: str) -> bool:
        """Whether there is a model with this key."""
        if not _KEY.fullmatch(key):
            return False
        try:
            await self.get_model(key)
        except UnknownModelException:
            return False
        return True

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

    async def search_by_path(self, path: str | os.PathLike[str]) -> AnyModelConfig:
        """The config of the model at a path, absolute or as stored.

        Raises:
            UnknownModelException: There is none.
        """
        text = os.fspath(path)
        found = await self.list_models(paths=[text])
        if not found:
            # A path inside a models_dir is stored relative to it, together with the id of that folder.
            for root, root_id in await self._find_roots():
                where = absolute(text)
                if where.is_relative_to(root):
                    relative = str(where.relative_to(root))
                    found = await self._list(
                        made(
                            pb.ListModelsRequest,
                            filter=made(pb.ModelFilter, paths=[relative], root_id=root_id),
                        )
                    )
                if found:
                    break
        if not found:
            found = await self.list_models(paths=[str(absolute(text))])
        if not found:
            raise UnknownModelException(f"No model has the path {text}.", metadata={"path": text})
        return found[0]

    async def search_by_name(
        self,
        name: str | None = None,
        base: BaseModelType | str | None = None,
        type: ModelType | str | None = None,
    ) -> list[AnyModelConfig]:
        """The models that have this name, base and type; what is not given does not restrict.

        A model is found by any of its bases, and one of base ``any`` by every base.
        """
        return await self.list_models(name=name, base=base, type=type)

    async def all_models(self) -> list[AnyModelConfig]:
        """All models, ordered by name."""
        return await self.list_models()

    async def search_by_tag(self, tags: str | Sequence[str]) -> list[AnyModelConfig]:
        """The models that have all of these tags."""
        return await self.list_models(tags=tags)

    async def model_info_by_name(
        self, name: str, base_model: BaseModelType | str, model_type: ModelType | str
    ) -> AnyModelConfig:
        """The only model with this name, base and type, all compared exactly.

        Raises:
            UnknownModelException: None has them.
            DuplicateModelException: More than one has.
        """
        request = made(
            pb.FindModelRequest,
            name=name,
            base=base_model,
            type=wire(ModelType, model_type, "type"),
        )
        return from_model((await self._peer.call(self._stub.FindModel, request)).model)

    async def list_models(
        self,
        *,
        name: str | None = None,
        base: str | Sequence[str] | None = None,
        type: str | Sequence[str] | None = None,
        format: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        paths: Sequence[str] = (),
        hash: str | None = None,
        source: str | None = None,
        text: str | None = None,
        keys: Sequence[str] = (),
        key_prefix: str | None = None,
        name_caseless: str | None = None,
        missing: bool | None = None,
        order: Order = "name",
        descending: bool = False,
    ) -> list[AnyModelConfig]:
        """The models that fit everything that is given.

        Args:
            name: Exactly this name.
            base: One of these bases; a model is found by any of its bases.
            type: One of these types.
            format: One of these formats.
            tags: All of these tags.
            labels: All of these labels, each with exactly this value.
            paths: One of these paths as stored.
            hash: The original or current hash, or SHA-256 or BLAKE3 of one of the files.
            source: Exactly this source.
            text: Words that all occur in name, description, tags, trigger phrases, source or path.
            keys: One of these keys, at most 1,000.
            key_prefix: Keys that begin so: 4 characters or more.
            name_caseless: This name, without regard to case.
            missing: Whether the model's files are gone; None: either.
            order: What to sort by; ties go by key.
            descending: Whether to turn the order round.
        """
        wanted = model_filter(
            name=name,
            base=base,
            type=type,
            format=format,
            tags=tags,
            labels=labels,
            paths=paths,
            hash=hash,
            source=source,
            text=text,
            keys=keys,
            key_prefix=key_prefix,
            name_caseless=name_caseless,
            missing=missing,
        )
        by = f"MODEL_ORDER_{order.upper()}"
        return await self._list(made(pb.ListModelsRequest, filter=wanted, order=by, descending=descending))

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
            resume_token: Place to go on from, out of an earlier frame; empty: a snapshot first.
            skip_snapshot: Without a token: only changes from now on.
        """
        request = made(
            pb.WatchModelsRequest,
            filter=model_filter(
                base=base, type=type, format=format, tags=tags, labels=labels, text=text, missing=missing
            ),
            resume_token=resume_token,
            skip_snapshot=skip_snapshot,
        )
        return follow(self._peer, lambda to: RecordServiceStub(to).WatchModels, request, _events)

    # -- writing ------------------------------------------------------------------------------------------

    async def add_model(
        self,
        key: str | None,
        config: ModelConfigBase | Mapping[str, Any],
        *,
        files: Sequence[ModelFile] = (),
    ) -> AnyModelConfig:
        """Store a new record.

        Args:
            key: Its key: 32 lowercase hexadecimal characters; None or "": a random one.
            config: A config, or a dict from which the right class is chosen.
            files: The model's files.

        Raises:
            InvalidModelConfigException: The dict is no valid config.
            DuplicateModelException: The key, or the path, is taken.
        """
        model = to_model(ModelConfigFactory.make_config(config, key=key or ""))
        for name in OUTPUT_ONLY:
            model.ClearField(name)
        request = made(pb.CreateModelRequest, model=model, files=map(to_file, files))
        return from_model((await self._peer.call(self._stub.CreateModel, request)).model)

    async def update_model(
        self, key: str, config: ModelConfigBase | Mapping[str, Any], *, etag: str | None = None
    ) -> AnyModelConfig:
        """Change a record.

        Args:
            key: Its key.
            config: A config that replaces all that may change, or a dict of the fields to change; None
                as a value clears a field.
            etag: If given, the record's present etag: the call fails if somebody changed it since.

        Raises:
            UnknownModelException: No record has this key.
            InvalidModelConfigException: A field or value that this kind of model does not have.
            EtagMismatchException: The record is not as `etag` says.
        """
        return (await self._update(key, config, etag)).config

    async def preview_update(
        self, key: str, config: ModelConfigBase | Mapping[str, Any], *, etag: str | None = None
    ) -> UpdatePreview:
        """What :meth:`update_model` would make of a record; changes nothing, and raises what it would."""
        return await self._update(key, config, etag, validate_only=True)

    async def _update(
        self,
        key: str,
        config: ModelConfigBase | Mapping[str, Any],
        etag: str | None,
        *,
        validate_only: bool = False,
    ) -> UpdatePreview:
        if isinstance(config, ModelConfigBase):
            whole = ModelConfigFactory.make_config(config, key=key)
            return await self._send_update(whole, ["*"], etag, validate_only=validate_only)
        for is_last in (*[False] * (_TRIES - 1), True):
            present = await self.get_model(key)
            new, mask = merge(present, key, config)
            # Where all is written, what somebody else wrote meanwhile must not be lost.
            expected = etag or (present.etag if mask == ["*"] else None)
            try:
                return await self._send_update(new, mask, expected, validate_only=validate_only)
            except EtagMismatchException:
                if etag or is_last:
                    raise  # else it is read again: an installer writes digests as they are known
        raise AssertionError("unreachable: the last try returns or raises")

    async def _send_update(
        self, new: AnyModelConfig, mask: list[str], etag: str | None, *, validate_only: bool
    ) -> UpdatePreview:
        model = to_model(new)
        for name in OUTPUT_ONLY:
            model.ClearField(name)
        model.etag = etag or ""
        request = made(
            pb.UpdateModelRequest,
            model=model,
            update_mask=FieldMask(paths=mask),
            validate_only=validate_only,
        )
        answer = await self._peer.call(self._stub.UpdateModel, request)
        return UpdatePreview(from_model(answer.model), tuple(answer.lost_fields))

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

    async def del_model(self, key: str, *, etag: str | None = None) -> None:
        """Delete a record. Its files stay: ``model_install.delete`` takes them along.

        Raises:
            UnknownModelException: No record has this key.
        """
        await self._peer.call(self._stub.DeleteModel, made(pb.DeleteModelRequest, key=key, etag=etag or ""))

    async def del_models(self, keys: Sequence[str]) -> list[str]:
        """Delete several records; their files stay. Answers with the keys of those that there were."""
        deleted: list[str] = []
        for first in range(0, len(keys), _BATCH):
            request = made(batch_pb.BatchDeleteModelsRequest, keys=keys[first : first + _BATCH])
            deleted += (await self._peer.call(self._stub.BatchDeleteModels, request)).deleted_keys
        return deleted

    async def _list(self, request: pb.ListModelsRequest) -> list[AnyModelConfig]:
        request.view = pb.MODEL_VIEW_FULL
        pages = self._peer.pages(self._stub.ListModels, request)
        return [from_model(model) async for page in pages for model in page.models]


def _events(frame: pb.WatchModelsResponse) -> list[WatchEvent[AnyModelConfig]]:
    return [
        WatchEvent(event.put.key, from_model(event.put), revision=event.revision)
        if event.WhichOneof("change") == "put"
        else WatchEvent(event.removed_key, None, revision=event.revision)
        for event in frame.events
    ]
