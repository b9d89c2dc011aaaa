"""Paths on the service's host, as a source beside others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from modelkeep_common.auth import Principal
from modelkeep_common.named_paths import named_path
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.resolve.plans import Asked, Plan, PlanKind, PlannedFile

_FIELD: Final = "source.source"
#: Files of a folder that a plan names.
_MAX_FILES: Final = 10_000


class PathResolver:
    """A `Resolver` of absolute paths and file:// addresses.

    Args:
        allowed: The real path of one that this caller may name; raises for others. Blocking.
    """

    def __init__(self, allowed: Callable[[str, Principal], Path]) -> None:
        self._allowed = allowed

    def takes(self, asked: Asked) -> bool:
        """See `Resolver`."""
        return named_path(asked.source, _FIELD) is not None

    async def resolve(self, asked: Asked) -> Plan:
        """See `Resolver`."""
        return await asyncio.to_thread(self._resolve, path_of(asked.source), asked.named_by)

    def _resolve(self, text: str, named_by: Principal) -> Plan:
        path = self._allowed(text, named_by)
        found = [path] if path.is_file() else _files_in(path)
        files = [
            PlannedFile(str(file), file.relative_to(path).as_posix() if file != path else path.name, size)
            for file in found
            for size in [file.stat().st_size]
        ]
        size = sum(file.size or 0 for file in files)
        return Plan(PlanKind.PATH, str(path), path.name, files, is_folder=path.is_dir(), source_size=size)


def path_of(text: str) -> str:
    """The absolute path that a path or a file:// address names, of a source that `PathResolver` takes."""
    path = named_path(text, _FIELD)
    assert path is not None, "it was asked whether it takes this"
    return path


def _files_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    for within, folders, names in os.walk(folder):
        folders.sort()
        found += [path for name in sorted(names) if (path := Path(within, name)).is_file()]
        if len(found) > _MAX_FILES:
            raise bad_source(f"has more than {_MAX_FILES:,} files", _FIELD)
    return found
