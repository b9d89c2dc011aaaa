"""What every model's configuration has, and the halves that kinds of models are made of."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    PlainSerializer,
    PrivateAttr,
)
from pydantic_core import CoreSchema, core_schema

from modelkeep.configs._default_settings import DefaultSettings
from modelkeep.taxonomy import (
    BaseModelType,
    DigestState,
    ModelFormat,
    ModelSourceType,
    ModelType,
    SubModelType,
)


class License(str):
    """A model's licence: an SPDX id, or the terms of a site as ``name=value`` parts.

    ``config.license.contains("allowCommercialUse=Sell")`` asks for one term; parts are separated by
    commas, semicolons, bars or white space, so that ``…=Rent`` is not found in ``…=RentCivit``.
    A model without a licence has the empty one: asking it is no error.
    """

    __slots__ = ()

    def contains(self, term: str) -> bool:
        """Whether ``term`` is here as a whole part, or several whole parts in a row."""
        if not term:
            return False
        return re.search(rf"(?<![^\s,;|]){re.escape(term)}(?![^\s,;|])", self) is not None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _path_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _empty_if_none(value: object) -> object:
    return "" if value is None else value


def _to_utc(value: object) -> object:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


#: Text that may be missing: the wire's empty string and None are the same.
OptionalText = Annotated[str | None, BeforeValidator(_none_if_empty)]
#: A path as text; a pathlib object is accepted. None and "" are the same.
OptionalPath = Annotated[str | None, BeforeValidator(_none_if_empty), BeforeValidator(_path_text)]
#: A time with a zone, kept in UTC.
Time = Annotated[AwareDatetime | None, BeforeValidator(_to_utc)]


class CoverImage(BaseModel):
    """What is known about the picture that stands for a model; its bytes are asked for by themselves."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    #: ``image/png``, ``image/jpeg``, ``image/webp`` or ``image/gif``.
    media_type: str = ""
    size_bytes: int = Field(default=0, ge=0)
    #: Of the bytes, 64 lowercase hex characters.
    sha256: str = ""


class ModelConfigBase(BaseModel):
    """The fields that every model's record has. Names and meaning are the original's."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        validate_default=True,
        protected_namespaces=(),
        defer_build=True,  # a program that reads one kind of model does not pay for thirty
    )

    key: str = Field(
        default="", description="The model's id: 32 lowercase hex characters; empty before it has one."
    )
    name: str = Field(min_length=1, description="The model's name; several models may share one.")
    model_type: ModelType = Field(
        validation_alias=AliasChoices("model_type", "type"), description="What the model is for."
    )
    model_format: ModelFormat = Field(
        validation_alias=AliasChoices("model_format", "format"), description="How it lies on disk."
    )
    base_model: BaseModelType = Field(
        validation_alias=AliasChoices("base_model", "base"), description="The base model it works with."
    )
    compatible_bases: list[BaseModelType] = Field(
        default_factory=list, description="Further bases it works with; `any` means all."
    )
    path: Annotated[str, BeforeValidator(_path_text)] = Field(
        min_length=1, description="Where it lies: absolute, or relative to models_dir."
    )
    root_id: OptionalText = Field(
        default=None, description="Which models_dir a relative path belongs to (UUID)."
    )
    size_bytes: int = Field(default=0, ge=0, description="Bytes of all its files.")
    original_hash: OptionalText = Field(
        default=None, description="Hash of the content as installed; never changes."
    )
    current_hash: OptionalText = Field(default=None, description="Hash of the content as it is now.")
    description: OptionalText = Field(default=None, description="Text for people.")
    source: OptionalText = Field(default=None, description="Where it came from: URL, repository or path.")
    source_type: ModelSourceType | None = Field(default=None, description="What kind of place the source is.")
    tags: list[str] = Field(default_factory=list, description="Words to search by.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Pairs for callers' own use, to find the model again by."
    )
    trigger_phrases: list[str] = Field(default_factory=list, description="Words that bring it out.")
    license: Annotated[License, BeforeValidator(_empty_if_none), PlainSerializer(str)] = Field(
        default=License(), description="Licence, or terms as name=value parts."
    )
    preview_url: OptionalText = Field(default=None, description="Address of a picture of what it makes.")
    source_url: OptionalText = Field(default=None, description="Page where people read about it.")
    default_settings: DefaultSettings | None = Field(
        default=None, description="What an application sets when somebody picks the model."
    )
    related_keys: list[str] = Field(
        default_factory=list, description="Keys of models that belong with it; kept on both sides."
    )
    extra_fields: dict[str, JsonValue] = Field(
        default_factory=dict, description="Fields of another program's record that have no place here."
    )
    cover_image: CoverImage | None = Field(
        default=None, description="The picture that stands for it, without its bytes; set by the service."
    )
    create_time: Time = Field(default=None, description="When the record was made; set by the service.")
    update_time: Time = Field(default=None, description="When the record last changed; set by the service.")
    missing_time: Time = Field(
        default=None, description="When it was noticed that its files are gone; set by the service."
    )
    etag: OptionalText = Field(default=None, description="Changes with every change; set by the service.")
    revision: int = Field(
        default=0, ge=0, description="The store's revision of the last change; set by the service."
    )

    # The message this was read from: fields and values that this version does not know are kept
    # there, and go back with the next write (modelkeep.configs.wire).
    _wire: bytes = PrivateAttr(b"")

    def __eq__(self, other: object) -> bool:
        """Equal when the class and all fields are; where it was read from does not matter."""
        if not isinstance(other, ModelConfigBase):
            return NotImplemented
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable, as every pydantic model

    @property
    def bases(self) -> list[BaseModelType]:
        """Every base that the model works with, its own first."""
        return [self.base_model, *(base for base in self.compatible_bases if base != self.base_model)]


class CheckpointConfig(ModelConfigBase):
    """A model in one file."""

    config: OptionalPath = Field(
        default=None,
        validation_alias=AliasChoices("config", "config_path"),
        description="The checkpoint's own configuration (YAML): absolute, or relative to the root.",
    )


class DiffusersConfig(ModelConfigBase):
    """A model in a folder as diffusers or transformers write it."""

    model_format: Literal[ModelFormat.Diffusers] = Field(
        default=ModelFormat.Diffusers, validation_alias=AliasChoices("model_format", "format")
    )


class SubmodelDefinition(BaseModel):
    """A component inside a main model's files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: SubModelType
    #: Folder relative to the model's path, or key prefix inside a single file.
    path_or_prefix: str = ""
    #: The class as ``model_index.json`` names it; empty if not known.
    class_name: str = ""
    #: The library of that class: ``diffusers`` or ``transformers``; empty if not known.
    library: str = ""


class ModelFile(BaseModel):
    """One file of a model; a model's files are part of its record."""

    model_config = ConfigDict(extra="forbid")

    #: Relative to the model's folder, with "/"; the file's name for a model that is one file.
    path: str = Field(min_length=1)
    size_bytes: int = Field(default=0, ge=0)
    #: When it was last modified, as of its hashing.
    modify_time: Time = None
    #: 64 lowercase hex characters; None while not computed.
    sha256: OptionalText = None
    #: 64 lowercase hex characters; None while not computed.
    blake3: OptionalText = None
    digest_state: DigestState = DigestState.Pending
