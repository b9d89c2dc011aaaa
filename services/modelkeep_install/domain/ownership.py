"""Whose files are whose: which of a record's files an uninstall takes, and which it leaves.

What is deleted is judged by where it really lies, never by what the record says of itself alone: each file's
own folder decides whose it is, and a file that another record lists stays, whatever either calls it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep.exceptions import ForbiddenPathException

from .roots import ModelRoots

#: (device, inode): what a file is, by whatever path.
Identity = tuple[int, int]

#: Links followed for one path; the system's own limit.
_MAX_LINKS = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """What an uninstall takes: files, and the folder at and above which no emptied folder goes."""

    top: Path
    paths: tuple[Path, ...] = ()


@dataclass(slots=True)
class Kept:
    """What other records list, and therefore stays; each with the keys of these records."""

    files: dict[Identity, set[str]] = field(default_factory=dict)
    #: Folders of records without a list of files: all that is in them may be theirs.
    folders: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, key: str, location: Path, listed: Sequence[str], roots: ModelRoots) -> None:
        """Adds the files of one record: at a place, with paths relative to it."""
        if not listed and not roots.is_at_or_above(location):
            self._add_file(key, location)
            if location.is_dir():
                self.folders.append((Path(os.path.realpath(location)), key))
        for name in listed:
            # a model that is one file lists its name
            self._add_file(
                key, location if name == location.name and not location.is_dir() else location / name
            )

    def _add_file(self, key: str, path: Path) -> None:
        for identity in trail(str(path)):
            self.files.setdefault(identity, set()).add(key)

    def keys_of(self, path: Path) -> set[str]:
        """The records that list a file, or the link itself."""
        try:
            found = os.lstat(path)
        except OSError:
            return set()
        real = Path(os.path.realpath(path.parent)) / path.name
        around = {key for folder, key in self.folders if real.is_relative_to(folder)}
        return self.files.get((found.st_dev, found.st_ino), set()) | around


def trail(path: str) -> set[Identity]:
    """What an absolute path needs to lead where it leads: every link on the way, and the file at its end."""
    found: set[Identity] = set()
    todo = path.split("/")[::-1]
    here, links = "/", 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, part)
        try:
            status = os.lstat(there)
            if not stat.S_ISLNK(status.st_mode):
                here = there
                continue
            target = os.readlink(there)
        except (OSError, ValueError):
            return found
        found.add((status.st_dev, status.st_ino))
        links += 1
        if links > _MAX_LINKS:
            return found
        here = "/" if target.startswith("/") else here
        todo += target.split("/")[::-1]
    end = os.stat(here)
    found.add((end.st_dev, end.st_ino))
    return found


def listed_paths(location: Path, listed: Sequence[str]) -> tuple[Path, list[Path]]:
    """(the model's folder, the paths that its record lists); of a linked folder the link alone."""
    single = len(listed) == 1 and listed[0] == location.name and not location.is_dir()
    if single or (listed and location.is_symlink()):
        return location.parent, [location]
    return location, [location / name for name in listed]


def owned_by(path: Path, roots: ModelRoots) -> str:
    """The key of the model in whose own folder a file or link really lies; empty if in none's."""
    return roots.home_of(Path(os.path.realpath(path.parent)) / path.name)


def plan(
    location: Path,
    listed: Sequence[str],
    roots: ModelRoots,
    *,
    own: Iterable[str],
    anywhere: bool,
    in_place: bool,
) -> Plan:
    """What of a record's files may be deleted, before other records are asked.

    Args:
        location: Where the record says that its model is.
        listed: The paths that it lists.
        roots: What may be touched.
        own: Keys whose folders are the record's to empty: its own, and those of models that are gone.
        anywhere: Also beneath import roots.
        in_place: The record names an absolute path: it was registered where it lies.

    Raises:
        ForbiddenPathException: A path that would be deleted is not the record's; nothing is to be deleted.
    """
    nothing, own = Plan(roots.models_dir), {"", *own}
    if roots.is_at_or_above(location) or owned_by(location, roots) not in own:
        return nothing  # the folder of all models is nobody's, and another's files are the other's
    if not anywhere and in_place and not roots.owns(location):
        return nothing
    folder, paths = listed_paths(location, listed)
    real = os.path.realpath(folder)
    for path in paths:
        # neither by its name nor by a link may a file of the list be another model's
        if ".." in path.parts or not path.is_relative_to(folder) or not _leads_into(path.parent, real):
            raise _not_its_own(path, "leads out of its model")
        roots.deletable(path)
        if owned_by(path, roots) not in own:
            raise _not_its_own(path, "belongs to another model")
        if not anywhere and not roots.owns(path.parent):
            raise _not_its_own(path, "lies outside models_dir")
    if folder.is_relative_to(roots.models_dir):
        return Plan(roots.models_dir, tuple(paths))
    # elsewhere only the model's own folder goes: one that holds single files is the user's
    keep_folder = folder in {path.parent for path in paths if path == location} or roots.is_root(folder)
    return Plan(folder if keep_folder else folder.parent, tuple(paths))


def _leads_into(folder: Path, real: str) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(real)


def _not_its_own(path: Path, why: str) -> ForbiddenPathException:
    return ForbiddenPathException(
        f"{str(path)!r} {why}: nothing was deleted. Uninstall with files KEEP to remove the record alone.",
        metadata={"path": str(path)},
    )
