"""Uninstalling: the record goes, and of the files exactly those that it lists, beneath allowed roots only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelkeep.exceptions import (
    AccessException,
    ConflictException,
    EtagMismatchException,
    ForbiddenPathException,
    InvalidRequestException,
    NotFoundException,
    UnknownModelException,
)

from . import files
from .domain_ports import JobStore, RecordPort, Removal, StoredModel
from .domain_roots import ModelRoots
from .domain_steps import KeyedLocks

_log = logging.getLogger(__name__)

#: Between two looks at an uninstall that could not be finished, in seconds.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0


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


class Uninstalling:
    """Uninstalls, and makes up for those that a kill or a silent RecordService interrupted."""

    def __init__(self, store: JobStore, records: RecordPort, roots: ModelRoots) -> None:
        self._store = store
        self._records = records
        self._roots = roots
        self._models = KeyedLocks()
        self._leftover = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins with what earlier runs left."""
        self._leftover.set()
        self._task = asyncio.create_task(self._finish_all(), name="removals")

    async def close(self) -> None:
        """Stops; what is left over is found at the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def uninstall(self, key: str, policy: FilePolicy, etag: str) -> Uninstalled:
        """Deletes a record and, as the policy says, its files.

        Everything is checked before anything is deleted. Then what is to be deleted is noted durably, the
        record goes, and the files go: a kill in between is made up for at the next start.

        Raises:
            UnknownModelException, EtagMismatchException: Of RecordService.
            ForbiddenPathException: A path that would be deleted lies outside; nothing was deleted.
            RootMismatchException: The record belongs to another models_dir.
        """
        async with self._models.hold(key):
            while True:
                try:
                    return await self._once(key, policy, etag)
                except EtagMismatchException:
                    if etag:
                        raise
                    # the record changed between reading and deleting, as by its digests: read it again

    async def _once(self, key: str, policy: FilePolicy, etag: str) -> Uninstalled:
        model = await self._records.get(key)
        if etag and model.etag != etag:
            raise EtagMismatchException(
                "The model changed since its etag was read: read it again.", metadata={"etag": model.etag}
            )
        top, paths = await _to_delete(model, policy, self._records, self._roots)
        removal = Removal(key, str(top), tuple(map(str, paths)))
        await self._store.add_removal(removal)
        try:
            # the etag that the files were read under: nobody can slip another list of files in between
            revision = await self._records.delete(key, model.etag, str(uuid.uuid4()))
        except (NotFoundException, ConflictException, InvalidRequestException, AccessException):
            await self._store.drop_removal(key)
            raise
        except BaseException:
            self._leftover.set()  # perhaps deleted: the note stays, and is looked at again
            raise
        deleted, size = await self._delete_files(removal)
        return Uninstalled(tuple(deleted), size, revision)

    async def _delete_files(self, removal: Removal) -> tuple[list[str], int]:
        deleted, size = await asyncio.to_thread(_delete, removal, self._roots)
        await self._store.drop_digests(removal.key)
        await self._store.drop_removal(removal.key)
        return deleted, size

    async def _finish_all(self) -> None:
        delay = _FIRST_RETRY_S
        while True:
            await self._leftover.wait()
            self._leftover.clear()
            for removal in await self._store.removals():
                try:
                    await self._finish(removal.key)
                except Exception as error:
                    _log.warning("the uninstall of %s cannot be finished yet: %s", removal.key, error)
                    self._leftover.set()
            if self._leftover.is_set():
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY_S)
            else:
                delay = _FIRST_RETRY_S

    async def _finish(self, key: str) -> None:
        """The files go if and only if the record has gone."""
        async with self._models.hold(key):
            for removal in await self._store.removals():
                if removal.key != key:
                    continue
                try:
                    await self._records.get(key)
                    await self._store.drop_removal(key)
                except UnknownModelException:
                    await self._delete_files(removal)


async def _to_delete(
    model: StoredModel, policy: FilePolicy, records: RecordPort, roots: ModelRoots
) -> tuple[Path, list[Path]]:
    """(the folder above which nothing goes, every file to delete), all of them allowed."""
    if policy is FilePolicy.KEEP:
        return roots.models_dir, []
    location = roots.locate(model.path, model.root_id)
    home = roots.home_of(location)
    if policy is FilePolicy.OWNED and home not in ("", model.key) and await _is_there(records, home):
        return roots.models_dir, []  # it was registered in place inside another model, whose files they are
    listed = await records.files(model.key)

    def check() -> tuple[Path, list[Path]]:
        if policy is FilePolicy.OWNED and Path(model.path).is_absolute() and not roots.owns(location):
            return roots.models_dir, []  # it was registered where it lies, and stays there
        single = len(listed) == 1 and listed[0].path == location.name and not location.is_dir()
        # of a linked folder, too, the link goes, and what it leads to stays
        single = single or (bool(listed) and location.is_symlink())
        folder = location.parent if single else location
        inside = os.path.realpath(folder)
        paths = [location] if single else [location / file.path for file in listed]
        for path in paths:
            # neither by its name nor by a link may a file of the list be another model's
            if ".." in path.parts or not path.is_relative_to(folder) or not _leads_into(path.parent, inside):
                raise ForbiddenPathException(
                    f"{str(path)!r} leads out of its model.", metadata={"path": str(path)}
                )
            roots.deletable(path)
            if policy is FilePolicy.OWNED and not roots.owns(path.parent):
                raise ForbiddenPathException(
                    f"{str(path)!r} lies outside models_dir.", metadata={"path": str(path)}
                )
        if folder.is_relative_to(roots.models_dir):
            return roots.models_dir, paths
        # elsewhere only the model's own folder goes: one that holds single files is the user's
        return (folder if single or roots.is_root(folder) else folder.parent), paths

    return await asyncio.to_thread(check)


def _leads_into(folder: Path, real: str) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(real)


async def _is_there(records: RecordPort, key: str) -> bool:
    try:
        await records.get(key)
    except UnknownModelException:
        return False
    return True


def _delete(removal: Removal, roots: ModelRoots) -> tuple[list[str], int]:
    """Removes the files, then the folders that this empties. A link is removed, never what it leads to."""
    deleted, size = [], 0
    folders = set()
    for text in removal.paths:
        try:
            size += roots.unlink(Path(text))
        except FileNotFoundError:
            continue
        except (OSError, ForbiddenPathException) as error:
            # the record has gone already: the answer leaves the file out, and the log says why
            _log.warning("%s stays: %s", text, error)
            continue
        deleted.append(text)
        folders.add(Path(text).parent)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        files.remove_empty(folder, above=Path(removal.top))
    return deleted, size
