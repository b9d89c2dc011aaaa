"""Uninstalling: the record goes, and of the files exactly those that it lists, beneath allowed roots only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from modelkeep.backoff import Backoff
from modelkeep.exceptions import (
    AccessException,
    ConflictException,
    EtagMismatchException,
    InvalidRequestException,
    ModelkeepError,
    NotFoundException,
    RootMismatchException,
    UnknownModelException,
)

from . import files
from .domain.ownership import Kept, owned_by, plan
from .domain.ports import JobStore, RecordPort, Removal, StoredModel
from .domain.requests import FilePolicy
from .domain.roots import ModelRoots
from .locks import KeyedLocks

_log = logging.getLogger(__name__)

#: Between two looks at an uninstall that could not be finished, in seconds.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0
#: Lists of files asked for side by side.
_LISTS_AT_ONCE = 16


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
        #: Two records that share a file are not both to find that the other one lists it.
        self._deciding = asyncio.Lock()
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
            ForbiddenPathException: A path that would be deleted is not the record's; nothing was deleted.
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
        async with self._deciding:
            removal = await self._decide(model, policy)
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

    async def _decide(self, model: StoredModel, policy: FilePolicy) -> Removal:
        """What an uninstall deletes: files of the record that no other record lists, in allowed places."""
        if policy is FilePolicy.KEEP:
            return Removal(model.key, str(self._roots.models_dir), ())
        location = self._roots.locate(model.path, model.root_id)
        listed = [file.path for file in await self._records.files(model.key)]
        planned = await asyncio.to_thread(
            plan,
            location,
            listed,
            self._roots,
            own=await self._own_homes(model.key, location),
            anywhere=policy is FilePolicy.ANY_ALLOWED_ROOT,
            in_place=Path(model.path).is_absolute(),
        )
        return await self._spare(Removal(model.key, str(planned.top), tuple(map(str, planned.paths))))

    async def _own_homes(self, key: str, location: Path) -> set[str]:
        """The keys whose folders are a record's to empty: its own, and one that is no model's any more."""
        home = await asyncio.to_thread(owned_by, location, self._roots)
        if home in ("", key) or home in {job.key for job in await self._store.unfinished()}:
            return {key}
        return {key} if await self._is_there(home) else {key, home}

    async def _spare(self, removal: Removal) -> Removal:
        """The removal without the files that other records list."""
        if not removal.paths:
            return removal
        others = [model for model in await self._records.all() if model.key != removal.key]
        kept = Kept()
        folders = await asyncio.to_thread(self._look_at, others, kept)
        limit = asyncio.Semaphore(_LISTS_AT_ONCE)

        async def add(key: str, folder: Path) -> None:
            async with limit:
                listed = [file.path for file in await self._records.files(key)]
            await asyncio.to_thread(kept.add, folder, listed, self._roots)

        async with asyncio.TaskGroup() as group:
            for key, folder in folders:
                group.create_task(add(key, folder))
        shared = await asyncio.to_thread(lambda: {path for path in removal.paths if kept.has(Path(path))})
        for path in shared:
            _log.info("%s stays: another record lists it", path)
        return replace(removal, paths=tuple(path for path in removal.paths if path not in shared))

    def _look_at(self, others: list[StoredModel], kept: Kept) -> list[tuple[str, Path]]:
        """Keeps the models that are one file; gives (key, folder) of those whose list must be asked for."""
        folders = []
        for model in others:
            try:
                location = self._roots.locate(model.path, model.root_id)
            except RootMismatchException:
                continue  # its files are not here
            if location.is_dir():
                folders.append((model.key, location))
            elif os.path.lexists(location):
                kept.add(location, [location.name], self._roots)
        return folders

    async def _is_there(self, key: str) -> bool:
        try:
            await self._records.get(key)
        except UnknownModelException:
            return False
        return True

    async def _delete_files(self, removal: Removal) -> tuple[list[str], int]:
        deleted, size = await asyncio.to_thread(_delete, removal, self._roots)
        await self._store.drop_digests(removal.key)
        await self._store.drop_removal(removal.key)
        return deleted, size

    async def _finish_all(self) -> None:
        waits = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
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
                await asyncio.sleep(waits.next())
            else:
                waits.reset()

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
                    # another record may have come meanwhile
                    await self._delete_files(await self._spare(removal))


def _delete(removal: Removal, roots: ModelRoots) -> tuple[list[str], int]:
    """Removes the files, then the folders that this empties. A link is removed, never what it leads to."""
    deleted, size = [], 0
    folders = set()
    for text in removal.paths:
        try:
            size += roots.unlink(Path(text))
        except FileNotFoundError:
            continue
        except (OSError, ModelkeepError) as error:
            # the record has gone already: the answer leaves the file out, and the log says why
            _log.warning("%s stays: %s", text, error)
            continue
        deleted.append(text)
        folders.add(Path(text).parent)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        files.remove_empty(folder, above=Path(removal.top))
    return deleted, size
