"""What a source is asked for, and what it comes to. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from modelkeep_common.auth import NOBODY, Principal
from modelkeep_common.urls import token_apart


class PlanKind(StrEnum):
    """Where a source is."""

    HUGGING_FACE = "hugging_face"
    CIVITAI = "civitai"
    URL = "url"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Asked:
    """A source as a caller wrote it. Its repr shows no secrets."""

    source: str = field(repr=False)
    subfolder: str = ""
    variant: str = ""
    revision: str = ""
    access_token: str = field(default="", repr=False)
    named_by: Principal = NOBODY

    @property
    def with_token_apart(self) -> Asked:
        """The same without a token in its address, which serves as access token where none is given."""
        source, token = token_apart(self.source)
        return replace(self, source=source, access_token=self.access_token or token)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to fetch. Its repr shows no secrets."""

    #: With what secrets the asked source had.
    url: str = field(repr=False)
    #: Beneath the model's folder, or its name.
    path: str
    #: In bytes; None where the source does not tell.
    size: int | None = None
    #: Lowercase hexadecimal; empty where the source does not tell.
    sha256: str = ""
    #: A file of this host that has this content, as far as its name tells; may be empty.
    cached_path: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that could be chosen in place of what a plan brings; as `SourceChoice`."""

    kind: str
    value: str
    source: str = ""
    size: int | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a source says of a model; as `SourceMetadata`."""

    name: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    tags: Sequence[str] = ()
    trigger_phrases: Sequence[str] = ()
    type: str = ""
    base: str = ""
    page_url: str = ""
    preview_url: str = ""
    nsfw_level: int = 0
    #: Seconds since 1970.
    publish_time: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a source comes to; as `SourcePlan`."""

    kind: PlanKind
    #: In its shortest spelling, without secrets.
    source: str
    name: str
    files: Sequence[PlannedFile]
    is_folder: bool = False
    revision: str = ""
    #: Of all that the source has, in bytes; None where that is not known.
    source_size: int | None = None
    variant: str = ""
    reasons: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    metadata: Metadata = field(default_factory=Metadata)
    code_files: Sequence[str] = ()

    @property
    def size(self) -> int | None:
        """Of the files in bytes; None where one is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def digest(self) -> str:
        """Equal for two plans that bring the same files; where no hash is known, by address."""
        facts = sorted((file.path, file.size, file.sha256 or file.url) for file in self.files)
        return hashlib.sha256(json.dumps([self.is_folder, *facts]).encode()).hexdigest()


class Resolver(Protocol):
    """Looks sources of one kind up. Safe to share between calls."""

    def takes(self, asked: Asked) -> bool:
        """Whether a source is of this kind, by its text alone.

        Raises:
            FieldInvalidException: It is, and is malformed.
        """

    async def resolve(self, asked: Asked) -> Plan:
        """What a source comes to.

        Raises:
            ModelkeepError: It cannot be had so; the reason says why.
        """
