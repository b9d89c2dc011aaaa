"""What installs and uninstalls are asked for, and what an uninstall answers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, Literal, TypeAlias

from modelkeep.configs.overrides import overrides_of
from modelkeep.contents import PICKLE_SUFFIXES, TENSOR_SUFFIXES
from modelkeep.download.v1 import resolve_pb2
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.messages import made
from modelkeep.values import absolute, is_url, names_hub

Reuse: TypeAlias = Literal["source", "content", "never"]
REUSES: Final[Mapping[str, install_pb2.Reuse]] = {
    "source": install_pb2.REUSE_SAME_SOURCE,
    "content": install_pb2.REUSE_SAME_CONTENT,
    "never": install_pb2.REUSE_NEVER,
}
UninstallFiles: TypeAlias = Literal["keep", "owned", "any"]
FILES: Final[Mapping[str, pb.UninstallFiles]] = {
    "keep": pb.UNINSTALL_FILES_KEEP,
    "owned": pb.UNINSTALL_FILES_OWNED,
    "any": pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT,
}
_HTTP: Final = re.compile("https?://", re.IGNORECASE)
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What an uninstall deleted, or would delete.

    Attributes:
        deleted_paths: The first of the files, at most 1,000.
        deleted_count: How many there are.
        deleted_bytes: Their sizes together.
        leases: Names of the leases that hold the model.
        leases_known: Whether the loader was asked, and answered.
        shared: Files that stay, and the keys of the records that list them as well.
    """

    deleted_paths: list[Path]
    deleted_count: int
    deleted_bytes: int
    leases: list[str]
    leases_known: bool
    shared: dict[Path, list[str]]


def import_request(
    source: Any,
    *,
    inplace: bool,
    move: bool = False,
    config: Mapping[str, Any] | None,
    expected_sha256: str | None,
    reuse: Reuse,
    variant: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    access_token: str | None = None,
    priority: int | None = None,
    labels: Mapping[str, str] | None = None,
) -> pb.ImportModelRequest:
    return made(
        pb.ImportModelRequest,
        source=source_message(source, variant=variant, subfolder=subfolder, revision=revision),
        inplace=inplace and not move,
        move=move,
        overrides=overrides_of(config),
        access_token=access_token or "",
        expected_sha256=expected_sha256 or "",
        priority=priority,
        reuse=REUSES[reuse],
        labels=labels,
    )


def source_message(
    source: Any, *, variant: str | None = None, subfolder: str | None = None, revision: str | None = None
) -> install_pb2.InstallSource:
    """A source on the wire, paths absolute.

    Args:
        source: A path, or a text: what exists as a path is one, and beats a repository that is spelled alike.
        variant: Of a source at a hub.
        subfolder: The same; one that the source has in it wins.
        revision: The same.
    """
    is_text = not isinstance(source, os.PathLike)
    text = str(source) if is_text else os.fspath(source)
    is_remote = is_text and _is_remote(text)
    place = text if is_remote else str(absolute(text))
    if subfolder or variant or revision:  # which a path does not have: the service says so
        remote = made(
            resolve_pb2.RemoteSource, source=place, subfolder=subfolder, variant=variant, revision=revision
        )
        return made(install_pb2.InstallSource, remote=remote)
    if not is_remote:
        return made(install_pb2.InstallSource, local_path=place)
    if _HTTP.match(text) and not names_hub(text):
        return made(install_pb2.InstallSource, url=text)
    return made(install_pb2.InstallSource, remote=made(resolve_pb2.RemoteSource, source=text))


def _is_remote(text: str) -> bool:
    """Whether a text is no path of this host."""
    if is_url(text) or _WINDOWS.match(text):
        return True  # of a path of Windows, the service says what it is
    # `folder/model.safetensors` with a mistake in it is no repository
    is_file = PurePath(text).suffix.lower() in TENSOR_SUFFIXES | PICKLE_SUFFIXES and ":" not in text
    return names_hub(text) and not is_file
