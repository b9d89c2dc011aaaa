"""What a hub's source comes to, as DownloadService tells it: which files, and what is said of them. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from modelkeep_common.file_names import is_device, is_forbidden

_MAX_BYTES = 200


class Hub(StrEnum):
    """Who has a source."""

    HUGGING_FACE = "hugging_face"
    CIVITAI = "civitai"
    #: One of a newer DownloadService.
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Remote:
    """A source at a hub, its parts apart and without secrets; the fields of ``RemoteSource``."""

    source: str
    subfolder: str = ""
    variant: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to fetch."""

    url: str
    #: Beneath the model's folder, or its name.
    path: str
    #: In bytes; None where the source does not tell.
    size_bytes: int | None = None
    #: Lowercase hexadecimal; empty where the source does not tell.
    sha256: str = ""
    #: A file of this host that has this content, as far as its name tells; or empty.
    cached_path: str = ""
    #: The file of this host that it is copied from: such a one, or a model's.
    local_copy: str = ""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the source says of the model; everything may be empty."""

    name: str = ""
    description: str = ""
    license: str = ""
    tags: Sequence[str] = ()
    trigger_phrases: Sequence[str] = ()
    type: str = ""
    base: str = ""
    preview_url: str = ""
    #: Page about the model.
    source_url: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a source comes to. Stored with its job, so that a restart fetches the same."""

    #: ``message`` is bytes, which JSON has no way of its own for.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    hub: Hub
    #: In its shortest spelling: the ``source`` of the record.
    source: str
    name: str
    files: tuple[PlannedFile, ...]
    is_folder: bool = False
    revision: str = ""
    metadata: Metadata = field(default_factory=Metadata)
    #: The serialised ``SourcePlan`` without its files; opaque here.
    message: bytes = b""

    @property
    def file_name(self) -> str:
        """What the model's file or folder is called here: a name that every file system takes."""
        return safe_name(self.name if self.is_folder else self.files[0].path.rpartition("/")[2])

    @property
    def missing_bytes(self) -> int | None:
        """Sum of the sizes of the files of which no copy is known; None where one is not known."""
        sizes = [file.size_bytes for file in self.files if not file.local_copy]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def safe_name(name: str) -> str:
    """A name as one component that is harmless on every file system; "model" where nothing is left of it.

    Of a path, such as the id of a repository, the last component counts.
    """
    name = unicodedata.normalize("NFC", name.rstrip("/").rpartition("/")[2])
    name = "".join("_" if is_forbidden(c) else c for c in name)
    stem, dot, suffix = name.rpartition(".")
    if len(name.encode()) > _MAX_BYTES:
        keeps = f"{dot}{suffix}" if stem and len(suffix.encode()) <= 16 else ""
        room = _MAX_BYTES - len(keeps.encode())
        name = name.encode()[:room].decode(errors="ignore") + keeps
    name = name.strip(" ").lstrip(".").rstrip(". ")
    if is_device(name) or name.startswith(".modelkeep"):
        name = f"_{name}"
    return name or "model"
