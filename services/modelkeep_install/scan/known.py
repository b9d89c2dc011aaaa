"""Which of what is found has a record: by the file or folder that records lead to, and by size and time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep_common.urls import is_address
from modelkeep_common.wire import clamped_time

from .. import files
from ..domain.ports import RecordFile, StoredModel
from ..domain.roots import ModelRoots
from .walking import Found, Identity, identity_of


@dataclass(frozen=True, slots=True)
class Seen:
    """What an earlier scan knew of a path: that it has a record, or that there is a copy of it.

    Attributes:
        facts: Of its files, as they were then.
        key: Of the record.
        copied: The record is of a copy.
    """

    facts: str
    key: str
    copied: bool = False


@dataclass(slots=True)
class Known:
    """The records, by what their paths lead to.

    Attributes:
        by_identity: Of the file or folder at a record's path, the record's key.
        keys: Of all records whose files are there.
        seen: What earlier scans knew, by path.
    """

    by_identity: dict[Identity, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    seen: Mapping[str, Seen] = field(default_factory=dict)

    def as_before(self, found: Found, *, copies: bool) -> str:
        """The key of what has a record and is as an earlier scan saw it; else empty.

        Args:
            found: What is there.
            copies: A copy counts as well.
        """
        seen = self.seen.get(found.path)
        if seen is None or not found.facts or seen.facts != found.facts:
            return ""
        if self.by_identity.get(found.identity) == seen.key and not seen.copied:
            return seen.key
        return seen.key if seen.copied and copies and seen.key in self.keys else ""


def known_of(
    models: Iterable[StoredModel], roots: ModelRoots, seen: Mapping[str, Seen]
) -> tuple[Known, list[StoredModel]]:
    """The records that can be looked at from here, and those of them at whose path there is nothing."""
    known, gone = Known(seen=seen), []
    # the folder of all models is no model, whatever a record says
    nobodys = {identity_of(folder) for folder in (roots.models_dir, *roots.models_dir.parents)}
    # texts in place of Path objects: those would take longer than the looks
    models_dir = str(roots.models_dir)
    for model in models:
        if not model.path.startswith("/") and model.root_id not in ("", roots.root_id):
            continue
        if is_address(model.path):
            continue  # a model that somebody else serves is nowhere on the disk
        try:
            identity = identity_of(os.path.join(models_dir, model.path))
        except (FileNotFoundError, NotADirectoryError):
            gone.append(model)
        except (OSError, ValueError):
            continue  # it may be there
        else:
            if identity not in nobodys:
                known.by_identity[identity] = model.key
            known.keys.add(model.key)
    return known, gone


def is_as_recorded(found: Found, listed: Sequence[RecordFile]) -> bool:
    """Whether the files that a record lists are there, with the sizes and times that it has."""
    there = {name: (size, clamped_time(when)) for name, size, when in found.files}
    if len(listed) == len(there) == 1:  # whatever it is called
        pairs = [(listed[0], next(iter(there.values())))]
    elif any(file.path not in there for file in listed):
        return False
    else:
        pairs = [(file, there[file.path]) for file in listed]
    return bool(pairs) and all(
        file.size_bytes == size and files.is_same_time(file.modify_time, when) for file, (size, when) in pairs
    )


def is_beneath(path: str, folder: Path) -> bool:
    """Whether a path is in a folder, by its name."""
    return path.startswith(f"{folder}/".replace("//", "/"))
