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
    ModelInUseException,
    ModelkeepError,
    NotFoundException,
    RootMismatchException,
    UnknownModelException,
)

from . import files
from .domain.ownership import Kept, owned_by, plan
from .domain.ports import JobStore, LeaseHeld, LeasePort, RecordPort, Removal, StoredModel
from .domain.requests import FilePolicy
from .domain.roots import ModelRoots
from .locks import KeyedLocks

_log = logging.getLogger(__name__)

#: Between two looks at an uninstall that could not be finished, in seconds.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0
#: Lists of files asked for side by side.
_LISTS_AT_ONCE = 16
#: Other records that are named of a file, and holders that are named of a model.
_NAMED_KEYS, _NAMED_HOLDERS = 16, 5


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What an uninstall deleted, or would."""

    deleted_paths: tuple[str, ...]
    deleted_bytes: int
    revision: int
    #: The leases that hold it; None if nobody can tell.
    leases: tuple[LeaseHeld, ...] | None = None
    #: Files that stay, and the keys of the records that list them as well.
    shared: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Uninstalling:
    """Uninstalls, and makes up for those that a kill or a silent RecordService interrupted."""

    def __init__(
        self, store: JobStore, records: RecordPort, roots: ModelRoots, loader: LeasePort | None = None
    ) -> None:
        self._store = store
        self._records = records
        self._loader = loader
        #: Lists of files of folders, by key, with the etag of the record that they are of.
        self._lists: dict[str, tuple[str, list[str]]] = {}
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

    async def uninstall(
        self, key: str, policy: FilePolicy, etag: str, *, validate_only: bool = False, force: bool = False
    ) -> Uninstalled:
        """Deletes a record and, as the policy says, its files.

        Everything is checked before anything is deleted. Then what is to be deleted is noted durably, the
        record goes, and the files go: a kill in between is made up for at the next start.

        Args:
            key: The record's.
            policy: What happens to its files.
            etag: If not empty, the record's.
            validate_only: Delete nothing, and tell what would be.
            force: Also while leases hold it.

        Raises:
            UnknownModelException, EtagMismatchException: Of RecordService.
            ForbiddenPathException: A path that would be deleted is not the record's; nothing was deleted.
            ModelInUseException: Leases hold it; nothing was deleted.
            RootMismatchException: The record belongs to another models_dir.
        """
        async with self._models.hold(key):
            while True:
                try:
                    return await self._once(key, policy, etag, validate_only, force)
                except EtagMismatchException:
                    if etag:
                        raise
                    # the record changed between reading and deleting, as by its digests: read it again

    async def _once(
        self, key: str, policy: FilePolicy, etag: str, validate_only: bool, force: bool
    ) -> Uninstalled:
        model = await self._records.get(key)
        if etag and model.etag != etag:
            raise EtagMismatchException(
                "The model changed since its etag was read: read it again.", metadata={"etag": model.etag}
            )
        found = await self._loader.leases(key) if self._loader is not None else None
        leases = None if found is None else tuple(found)
        if leases and not force and not validate_only:
            raise _in_use(key, leases)
        async with self._deciding:
            removal = await self._decide(model, policy)
            if validate_only:
                there, size = await asyncio.to_thread(_measure, removal)
                return Uninstalled(tuple(there), size, model.revision, leases, removal.shared)
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
        return Uninstalled(tuple(deleted), size, revision, leases, removal.shared)

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
        return await self.spare(Removal(model.key, str(planned.top), tuple(map(str, planned.paths))))

    async def _own_homes(self, key: str, location: Path) -> set[str]:
        """The keys whose folders are a record's to empty: its own, and one that is no model's any more."""
        home = await asyncio.to_thread(owned_by, location, self._roots)
        if home in ("", key) or home in {job.key for job in await self._store.unfinished()}:
            return {key}
        return {key} if await self._is_there(home) else {key, home}

    async def spare(self, removal: Removal) -> Removal:
        """The removal without the files that other records list, which it names."""
        if not removal.paths:
            return removal
        everything = await self._records.all()
        self._lists = {model.key: known for model in everything if (known := self._lists.get(model.key))}
        others = [model for model in everything if model.key != removal.key]
        kept = Kept()
        folders = await asyncio.to_thread(self._look_at, others, kept)
        limit = asyncio.Semaphore(_LISTS_AT_ONCE)

        async def add(model: StoredModel, folder: Path) -> None:
            async with limit:
                listed = await self._listed(model)
            await asyncio.to_thread(kept.add, model.key, folder, listed, self._roots)

        async with asyncio.TaskGroup() as group:
            for model, folder in folders:
                group.create_task(add(model, folder))
        return await asyncio.to_thread(_without_shared, removal, kept)

    async def _listed(self, model: StoredModel) -> list[str]:
        """The files of another record, which are asked for again only when that has changed."""
        etag, listed = self._lists.get(model.key, ("", []))
        if not model.etag or etag != model.etag:
            listed = [file.path for file in await self._records.files(model.key)]
            self._lists[model.key] = (model.etag, listed)
        return listed

    def _look_at(self, others: list[StoredModel], kept: Kept) -> list[tuple[StoredModel, Path]]:
        """Keeps the models that are one file; gives (record, folder) of those whose list is not known."""
        folders = []
        for model in others:
            try:
                location = self._roots.locate(model.path, model.root_id)
            except RootMismatchException:
                continue  # its files are not here
            if location.is_dir():
                folders.append((model, location))
            elif os.path.lexists(location):
                kept.add(model.key, location, [location.name], self._roots)
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
                    await self._delete_files(await self.spare(removal))


def _in_use(key: str, leases: tuple[LeaseHeld, ...]) -> ModelInUseException:
    named = leases[:_NAMED_HOLDERS]
    who = ", ".join(dict.fromkeys(lease.holder for lease in named))
    count = f"{len(leases)} leases hold" if len(leases) > 1 else "A lease holds"
    return ModelInUseException(
        f"{count} the model {key} ({who}): nothing was deleted. End what holds it, or use force.",
        metadata={"key": key, "holders": ",".join(lease.id for lease in named)},
    )


def _without_shared(removal: Removal, kept: Kept) -> Removal:
    """The removal without the files that other records list, which it names."""
    keys = {path: sorted(kept.keys_of(Path(path))) for path in removal.paths}
    shared = tuple((path, tuple(found[:_NAMED_KEYS])) for path, found in keys.items() if found)
    for path, found in shared:
        _log.info("%s stays: %s list it", path, ", ".join(found))
    return replace(removal, paths=tuple(path for path, found in keys.items() if not found), shared=shared)


def _measure(removal: Removal) -> tuple[list[str], int]:
    """The files of a removal that are there, and their bytes."""
    there, size = [], 0
    for path in removal.paths:
        with contextlib.suppress(OSError):
            size += os.lstat(path).st_size
            there.append(path)
    return there, size


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
