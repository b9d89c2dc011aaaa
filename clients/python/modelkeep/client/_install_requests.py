"""What installs and uninstalls are asked for, and what an uninstall answers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from modelkeep.client._install_jobs import source_message
from modelkeep.client._values import absolute, is_url
from modelkeep.configs.overrides import overrides_of
from modelkeep.exceptions import SourceNotFoundException
from modelkeep.hubs import CANNOT, remedy_for, repository_in
from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.messages import made

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
    config: Mapping[str, Any] | None,
    expected_sha256: str | None,
    reuse: Reuse,
    access_token: str | None = None,
    priority: int | None = None,
    labels: Mapping[str, str] | None = None,
) -> pb.ImportModelRequest:
    local = None if is_url(source) else absolute(os.fspath(source))
    return made(
        pb.ImportModelRequest,
        source=source_message(source, local),
        inplace=inplace,
        overrides=overrides_of(config),
        access_token=access_token or "",
        expected_sha256=expected_sha256 or "",
        priority=priority,
        reuse=REUSES[reuse],
        labels=labels,
    )


@contextlib.contextmanager
def no_repository(source: Any) -> Iterator[None]:
    """Around a call for a source: where there is no such path, says so of what looks like a repository."""
    written = repository_in(source) if isinstance(source, str) else None
    try:
        if written is not None and written[1]:
            raise SourceNotFoundException(f"{source} is no path and no address.", metadata={"source": source})
        yield
    except SourceNotFoundException as error:
        if written is None:
            raise
        remedy = remedy_for(written[0])
        raise SourceNotFoundException(
            f"{error.message} {CANNOT} {remedy}",
            metadata=error.metadata,
            remedy=remedy,
        ) from None
