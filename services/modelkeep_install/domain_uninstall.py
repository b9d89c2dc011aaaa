"""Uninstalling: the record goes, and of the files exactly those that it lists, beneath allowed roots only."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelkeep.exceptions import (
    EtagMismatchException,
    ForbiddenPathException,
    UnavailableException,
    UnknownModelException,
)

from . import files
from .domain_ports import JobStore, RecordPort, Removal, StoredModel
from .domain_roots import ModelRoots


class FilePolicy(StrEnum):
    """What happens to the files."""

    KEEP = "keep"
    OWNED = "owned"
    ANY_ALLOWED_ROOT = "any_allowed_root"


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What an uninstall deleted."""

    deleted_paths: tuple[str, ...]
    deleted_bytes: int
    revision: int


async def uninstall(
    key: str, policy: FilePolicy, etag: str, *, store: JobStore, records: RecordPort, roots: ModelRoots
) -> Uninstalled:
    """Deletes a record and, as the policy says, its files.

    Everything is checked before anything is deleted. Then what is to be deleted is noted durably, the
    record goes, and the files go: a kill in between is made up for at the next start.

    Raises:
        UnknownModelException, EtagMismatchException: Of RecordService.
        ForbiddenPathException: A path that would be deleted lies outside; nothing was deleted.
        RootMismatchException: The record belongs to another models_dir.
    """
    while True:
        try:
            return await _uninstall_once(key, policy, etag, store, records, roots)
        except EtagMismatchException:
            if etag:
                raise
            # the record changed between reading and deleting, as by its digests: read it again


async def _uninstall_once(
    key: str, policy: FilePolicy, etag: str, store: JobStore, records: RecordPort, roots: ModelRoots
) -> Uninstalled:
    model = await records.get(key)
    if etag and model.etag != etag:
        raise EtagMismatchException(
            "The model changed since its etag was read: read it again.", metadata={"etag": model.etag}
        )
    folder, paths = await _to_delete(model, policy, records, roots)
    removal = Removal(key, str(folder), tuple(map(str, paths)))
    await store.add_removal(removal)
    try:
        # the etag that the files were read under: nobody can slip another list of files in between
        revision = await records.delete(key, model.etag, str(uuid.uuid4()))
    except UnavailableException:
        raise  # perhaps deleted: the note stays, and the next start finds out
    except BaseException:
        await store.drop_removal(key)
        raise
    deleted, size = await asyncio.to_thread(_delete, removal, roots)
    await store.drop_digests(key)
    await store.drop_removal(key)
    return Uninstalled(tuple(deleted), size, revision)


async def finish_removals(*, store: JobStore, records: RecordPort, roots: ModelRoots) -> None:
    """Makes up for uninstalls that a kill interrupted: files go if and only if the record has gone."""
    for removal in await store.removals():
        try:
            await records.get(removal.key)
        except UnknownModelException:
            await asyncio.to_thread(_delete, removal, roots)
            await store.drop_digests(removal.key)
        await store.drop_removal(removal.key)


async def _to_delete(
    model: StoredModel, policy: FilePolicy, records: RecordPort, roots: ModelRoots
) -> tuple[Path, list[Path]]:
    """(the model's folder, every file to delete), all of them allowed."""
    if policy is FilePolicy.KEEP:
        return roots.models_dir, []
    location = roots.locate(model.path, model.root_id)
    listed = await records.files(model.key)

    def check() -> tuple[Path, list[Path]]:
        if policy is FilePolicy.OWNED and Path(model.path).is_absolute() and not roots.owns(location):
            return roots.models_dir, []  # it was registered where it lies, and stays there
        single = len(listed) == 1 and listed[0].path == location.name and not location.is_dir()
        paths = [location if single else location / file.path for file in listed]
        for path in paths:
            if ".." in path.parts:
                raise ForbiddenPathException(
                    f"{str(path)!r} leads out of its model.", metadata={"path": str(path)}
                )
            roots.deletable(path)
            if policy is FilePolicy.OWNED and not roots.owns(path.parent):
                raise ForbiddenPathException(
                    f"{str(path)!r} lies outside models_dir.", metadata={"path": str(path)}
                )
        return (location.parent if single else location), paths

    return await asyncio.to_thread(check)


def _delete(removal: Removal, roots: ModelRoots) -> tuple[list[str], int]:
    """Removes the files, then the folders that this empties. A link is removed, never what it leads to."""
    deleted, size = [], 0
    folders = set()
    for text in removal.paths:
        path = Path(text)
        try:
            roots.deletable(path)  # it may have been swapped for a link since
            status = path.lstat()
            path.unlink()
        except (FileNotFoundError, ForbiddenPathException):
            continue
        deleted.append(text)
        size += status.st_size
        folders.add(path.parent)
    top = Path(removal.folder)
    above = roots.models_dir if top.is_relative_to(roots.models_dir) else top.parent
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        files.remove_empty(folder, above=above)
    return deleted, size
