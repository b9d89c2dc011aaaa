"""The suite's data folder: of what is in it, callers may touch models and downloads, nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from modelkeep.defaults import EXIT_CONFIG

from .startup import StartupError

#: What the services and the supervisor keep in the data folder, each in a folder of its own.
OWN_FOLDERS: Final = ("record", "download", "install", "loader", "run", "logs")

#: Where downloads go unless the settings say otherwise: what lies there is the callers'.
DOWNLOADS: Final = "downloads"

_Identity = tuple[int, int]


class DataFolder:
    """The suite's data folder, of which callers may touch the models and nothing else.

    A folder counts as what it is, not by what it is called: also where it is mounted a second time, or where
    the file system takes its name in another case. So does a file, of which a hard link is another name.

    Args:
        path: The folder; it need not exist yet.
        models: Folders of models; those that lie inside it may be touched.

    Raises:
        StartupError: 78 if a folder of models is the data folder itself, or one that a service keeps there.
    """

    def __init__(self, path: Path, models: Sequence[Path] = ()) -> None:
        self.path = real_path(path)
        self._own = (self.path, *(self.path / name for name in OWN_FOLDERS))
        self._models = (*map(real_path, models), self.path / DOWNLOADS)
        for folder in self._models:
            if folder == self.path or any(folder.is_relative_to(own) for own in self._own[1:]):
                raise StartupError(
                    EXIT_CONFIG,
                    f"models cannot lie in {folder}, which holds the suite's own files: "
                    f"choose {self.path / 'models'}, or a folder outside {self.path}",
                )
        self._listed: tuple[tuple[tuple[Path, int], ...], frozenset[_Identity]] = ((), frozenset())

    def holds(self, real: Path) -> bool:
        """Whether a path without links is the folder or lies in it, and not in its models."""
        own, models = _identities(self._own), _identities(self._models)
        for folder in (real, *real.parents):
            identity = _identity(folder)
            if folder in self._models or identity in models:
                return False
            if folder in self._own or identity in own:
                return True
        return False

    def is_within(self, real: Path) -> bool:
        """Whether a path without links is a folder that the data folder lies in."""
        return self.path.is_relative_to(real) or _identity(real) in _identities(self.path.parents)

    def has_file(self, status: os.stat_result) -> bool:
        """Whether what has this status is one of the suite's own files, or its folders, by whatever name."""
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            return identity in _identities(self._own)
        return identity in self._files()

    def _files(self) -> frozenset[_Identity]:
        """The suite's own files; listed anew when one of its folders has changed."""
        folders, files = self._listed
        if not folders or any(_changed(folder) != time for folder, time in folders):
            found: dict[Path, int] = {}
            listed = set(_entries(self.path, found, depth=0))
            for own in self._own[1:]:
                listed.update(_entries(own, found, depth=3))
            folders, files = self._listed = tuple(found.items()), frozenset(listed)
        return files


def real_path(path: Path) -> Path:
    """A path, absolute and without links; it need not exist."""
    return Path(os.path.realpath(path.expanduser()))


def _identity(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino)


def _identities(paths: Sequence[Path]) -> set[_Identity]:
    return {found for path in paths if (found := _identity(path)) is not None}


def _changed(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _entries(folder: Path, seen: dict[Path, int], *, depth: int) -> Iterator[_Identity]:
    """What lies in a folder, folders apart; ``seen`` gets each folder's time of change."""
    seen[folder] = _changed(folder)
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if depth:
                yield from _entries(Path(entry.path), seen, depth=depth - 1)
        elif (identity := _identity(Path(entry.path))) is not None:
            yield identity
