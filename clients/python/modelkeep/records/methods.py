"""The original's methods of a record store: configs in, configs out, whatever answers them.

A service answers them over gRPC (:mod:`modelkeep.client`), a store inside the process without it
(``modelkeep_record.store``). Needs protobuf, not grpc.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.configs import AnyModelConfig, ModelConfigBase, ModelConfigFactory, ModelFile
from modelkeep.configs.wire import from_model, to_file, to_model
from modelkeep.exceptions import (
    EtagMismatchException,
    FieldInvalidException,
    FieldViolation,
    UnknownModelException,
)
from modelkeep.messages import made, wire, wires
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import covers_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.records._merging import OUTPUT_ONLY, merge
from modelkeep.taxonomy import BaseModelType, ModelFormat, ModelType
from modelkeep.values import absolute, listed

#: Sort key of a list.
Order: TypeAlias = Literal["name", "type", "size", "create_time", "update_time", "path"]

_KEY: Final = re.compile(r"[0-9a-f]{32}")
#: Bytes that a picture may have.
_MAX_PICTURE: Final = 1 << 20
#: How many keys a list names at most.
_BATCH: Final = 1000
#: How often a change is tried that somebody else's comes between.
_TRIES: Final = 4


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
    related_to: str | None = None,
) -> pb.ModelFilter:
    """The message of a filter; see :meth:`RecordMethods.list_models` for the arguments."""
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
        related_to=related_to or "",
    )


def read_picture(path: os.PathLike[str] | str) -> bytes:
    """The picture in a file, of which nothing is read if it is too large. Blocks.

    Raises:
        FieldInvalidException: It is too large.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_PICTURE:
            problem = f"must have at most {_MAX_PICTURE:,} bytes, not {size:,}"
            raise FieldInvalidException("", violations=[FieldViolation("image", problem)])
        return file.read(_MAX_PICTURE + 1)


class UpdatePreview(NamedTuple):
    """What an update makes of a record."""

    #: The config as it is then.
    config: AnyModelConfig
    #: Settings that another type has no field for, and that are lost by it, such as ``main.variant``.
    lost_fields: tuple[str, ...]


class RecordMethods(ABC):
    """What models there are. Methods that list have all that fits, however many pages that is."""

    # -- what answers -------------------------------------------------------------------------------------

    @abstractmethod
    async def _get(self, request: pb.GetModelRequest) -> Model:
        """See RecordService's GetModel, and so for the others."""

    @abstractmethod
    async def _find(self, request: pb.FindModelRequest) -> Model: ...

    @abstractmethod
    async def _list(self, request: pb.ListModelsRequest) -> list[Model]:
        """All pages of a list, each record whole."""

    @abstractmethod
    async def _create(self, request: pb.CreateModelRequest) -> Model: ...

    @abstractmethod
    async def _change(self, request: pb.UpdateModelRequest) -> pb.UpdateModelResponse: ...

    @abstractmethod
    async def _delete(self, request: pb.DeleteModelRequest) -> None: ...

    @abstractmethod
    async def _set_cover(self, request: covers_pb2.SetCoverImageRequest) -> Model: ...

    @abstractmethod
    async def _get_cover(self, request: covers_pb2.GetCoverImageRequest) -> bytes: ...

    @abstractmethod
    async def _delete_cover(self, request: covers_pb2.DeleteCoverImageRequest) -> Model: ...

    @abstractmethod
    async def _read(self, path: os.PathLike[str] | str) -> bytes:
        """:func:`read_picture`, where it does not matter that it blocks."""

    @abstractmethod
    async def _find_roots(self) -> Sequence[tuple[str, str]]:
        """The folders that hold installed models: (absolute path, root id) of each."""

    # -- reading ------------------------------------------------------------------------------------------

    async def get_model(self, key: str) -> AnyModelConfig:
        """The config of a model.

        Raises:
            UnknownModelException: No record has this key.
        """
        return from_model(await self._get(made(pb.GetModelRequest, key=key)))

    async def exists(self, key: str) -> bool:
        """Whether there is a model with this key."""
        if not _KEY.fullmatch(key):
            return False
        try:
            await self.get_model(key)
        except UnknownModelException:
            return False
        return True

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
                    found = await self._all(pb.ModelFilter(paths=[relative], root_id=root_id))
                    if not root_id:  # a folder without an id has no record of a folder that has one
                        found = [config for config in found if config.root_id is None]
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
        return from_model(await self._find(request))

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
        related_to: str | None = None,
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
            related_to: Key of a model that they are related to.
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
            related_to=related_to,
        )
        return await self._all(wanted, order, descending)

    async def _all(
        self, wanted: pb.ModelFilter, order: Order = "name", descending: bool = False
    ) -> list[AnyModelConfig]:
        request = made(
            pb.ListModelsRequest,
            filter=wanted,
            order=f"MODEL_ORDER_{order.upper()}",
            descending=descending,
            view=pb.MODEL_VIEW_FULL,
        )
        return list(map(from_model, await self._list(request)))

    async def get_related_model_keys(self, model_key: str) -> list[str]:
        """The keys of the models that are related to one, sorted; none where it has no record."""
        try:
            return (await self.get_model(model_key)).related_keys
        except UnknownModelException:
            return []

    async def get_related_model_keys_batch(self, model_keys: Sequence[str]) -> list[str]:
        """The keys of the models that are related to one of several, sorted, each once."""
        batches = [model_keys[first : first + _BATCH] for first in range(0, len(model_keys), _BATCH)]
        found = [config for batch in batches for config in await self.list_models(keys=batch)]
        return sorted({key for config in found for key in config.related_keys})

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
        return from_model(await self._create(request))

    async def update_model(
        self, key: str, config: ModelConfigBase | Mapping[str, Any], *, etag: str | None = None
    ) -> AnyModelConfig:
        """Change a record.

        Args:
            key: Its key.
            config: A config that replaces all that may change, or a dict of the fields to change; None
                as a value clears a field. ``default_settings.steps`` is one setting, the others stay.
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
        answer = await self._change(request)
        return UpdatePreview(from_model(answer.model), tuple(answer.lost_fields))

    async def add_model_relationship(self, model_key_1: str, model_key_2: str) -> None:
        """Relate two models to each other; those that are already stay as they are.

        Raises:
            UnknownModelException: No record has the first key.
            FieldInvalidException: No record has the second, both are the same, or one has 256 already.
        """
        await self._relate(model_key_1, lambda keys: {*keys, model_key_2})

    async def remove_model_relationship(self, model_key_1: str, model_key_2: str) -> None:
        """Take apart two related models; those that are not related stay as they are.

        Raises:
            UnknownModelException: No record has the first key.
        """
        await self._relate(model_key_1, lambda keys: {*keys} - {model_key_2})

    async def _relate(self, key: str, change: Callable[[Sequence[str]], Set[str]]) -> None:
        for is_last in (*[False] * (_TRIES - 1), True):
            present = await self.get_model(key)
            keys = change(present.related_keys)
            if keys == set(present.related_keys):
                return
            try:
                await self.update_model(key, {"related_keys": sorted(keys)}, etag=present.etag)
            except EtagMismatchException:
                if is_last:
                    raise
            else:
                return

    async def set_cover_image(
        self, key: str, image: bytes | os.PathLike[str] | str, *, etag: str | None = None
    ) -> AnyModelConfig:
        """Make a picture the one that stands for a model.

        Args:
            key: The model's key.
            image: The picture, or the path of a file of it: a PNG, JPEG, WebP or GIF of at most 1 MiB.
            etag: If given, the record's present etag.

        Returns:
            The config, with what is known about the picture as `cover_image`.

        Raises:
            UnknownModelException: No record has this key.
            FieldInvalidException: It is none of these kinds of picture, or too large.
            EtagMismatchException: The record is not as `etag` says.
            OSError: The file cannot be read.
        """
        data = image if isinstance(image, bytes) else await self._read(image)
        request = made(covers_pb2.SetCoverImageRequest, key=key, image=data, etag=etag or "")
        return from_model(await self._set_cover(request))

    async def get_cover_image(self, key: str) -> bytes:
        """The picture that stands for a model; `cover_image` of its config says what it is.

        Raises:
            UnknownModelException: No record has this key.
            ModelImageFileNotFoundException: It has no picture.
        """
        request = made(covers_pb2.GetCoverImageRequest, key=key)
        return await self._get_cover(request)

    async def delete_cover_image(self, key: str, *, etag: str | None = None) -> AnyModelConfig:
        """Take the picture away that stands for a model, if it has one. Answers with the config.

        Raises:
            UnknownModelException: No record has this key.
            EtagMismatchException: The record is not as `etag` says.
        """
        request = made(covers_pb2.DeleteCoverImageRequest, key=key, etag=etag or "")
        return from_model(await self._delete_cover(request))

    async def del_model(self, key: str, *, etag: str | None = None) -> None:
        """Delete a record. Its files stay: ``model_install.delete`` takes them along.

        Raises:
            UnknownModelException: No record has this key.
        """
        await self._delete(made(pb.DeleteModelRequest, key=key, etag=etag or ""))
