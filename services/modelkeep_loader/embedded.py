"""LoaderService inside another program's process, over a record store that is there, too.

Whoever has the store's records may read their files, so they may lie anywhere. The weights are this process's
memory, and other processes of its user get them as of any loader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from modelkeep.configs import AnyModelConfig
from modelkeep.configs.wire import to_model
from modelkeep.exceptions import UnknownModelException, UpstreamUnavailableException
from modelkeep_common.peers import Address
from modelkeep_common.serving.embedded import EmbeddedService
from modelkeep_loader.app import LoaderApplication
from modelkeep_loader.config import LoaderSettings
from modelkeep_loader.domain.records import FileFacts, Record, Removals
from modelkeep_loader.peers import to_record

#: Seconds between two looks at whether records are still there.
_LOOK_S: Final = 2.0
#: Files of a folder that are listed.
_MOST_FILES: Final = 10_000


class Store(Protocol):
    """A record store in this process, such as ``modelkeep_record.store`` makes; its methods may block."""

    def get_model(self, key: str) -> AnyModelConfig:
        """The record of a key, or UnknownModelException."""
        ...

    def list_models(self, *, paths: Sequence[str]) -> list[AnyModelConfig]:
        """The records whose path, as stored, is one of these."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such a record."""
        ...


class EmbeddedLoader(EmbeddedService):
    """A LoaderService in this process on a record store of its own; it serves once it is made.

    Args:
        store: Where records come from; it has to stay open as long.
        models_path: The folder that relative paths of records start in.
        ram_budget_bytes: For weights; 0: half of the memory.
        quiet: Log nothing at INFO and above; see :class:`modelkeep_common.serving.embedded.EmbeddedService`.
        settings: Further settings of the service, by name.

    Raises:
        StartupError: It cannot start.
    """

    def __init__(
        self,
        store: Store,
        models_path: Path,
        *,
        ram_budget_bytes: int = 0,
        quiet: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._wanted = {
            "models_dir": models_path,
            "ram_budget_bytes": ram_budget_bytes,
            "allow_any_import_root": True,
            "keeper": "none",  # the store's program ends with the loader, and has nothing that comes after
            **(settings or {}),
        }
        super().__init__("loader", quiet=quiet)

    def _settings(self, common: Mapping[str, Any]) -> LoaderSettings:
        return LoaderSettings(**{**common, **self._wanted})

    def _application(self, settings: LoaderSettings) -> LoaderApplication:
        return _Application(settings, StoreRecords(self._store, settings.models))


class _Application(LoaderApplication):
    """Asks the store that is there, and no RecordService."""

    def __init__(self, settings: LoaderSettings, records: StoreRecords) -> None:
        super().__init__(settings)
        self._records = records

    def _open_records(self, address: Address) -> StoreRecords:
        return self._records


class StoreRecords:
    """A :class:`modelkeep_loader.domain.records.FollowedRecords` of a store in this process.

    Args:
        store: The store. Its calls are made in threads, one at a time each under the store's own lock.
        models_dir: The folder that relative paths of records start in.
        look_s: Seconds between two looks at whether records are still there.
    """

    def __init__(self, store: Store, models_dir: Path, *, look_s: float = _LOOK_S) -> None:
        self._store = store
        self._models_dir = models_dir
        self._look_s = look_s
        self._known: set[str] = set()

    async def close(self) -> None:
        """The store is somebody else's, and stays open."""

    async def get(self, key: str) -> Record:
        """See :class:`modelkeep_loader.domain.records.Records`."""
        with _reachable():
            config = await asyncio.to_thread(self._store.get_model, key)
        self._known.add(key)
        return to_record(to_model(config))

    async def files(self, key: str) -> Mapping[str, FileFacts]:
        """What lies in a model's folder below the folder of models: a store has no lists of files.

        Elsewhere nothing is listed, and a folder is taken as its owner keeps it.
        """
        record = await self.get(key)
        return await asyncio.to_thread(_listed, self._models_dir, record.path)

    async def owner(self, paths: Sequence[str], root_id: str) -> Record | None:
        """See :class:`modelkeep_loader.domain.records.Records`."""
        with _reachable():
            configs = await asyncio.to_thread(lambda: self._store.list_models(paths=list(paths)))
        found = [to_record(to_model(config)) for config in configs]
        fitting = [record for record in found if _fits(record, root_id)]
        return max(fitting, key=lambda record: len(record.path), default=None)

    async def removals(self, resume_token: str) -> AsyncIterator[Removals]:
        """Looks every few seconds whether the records that were asked for are still there."""
        while True:
            gone = [key for key in sorted(self._known) if await self._is_gone(key)]
            self._known.difference_update(gone)
            yield Removals("now", gone)
            await asyncio.sleep(self._look_s)

    async def _is_gone(self, key: str) -> bool:
        with _reachable():
            return not await asyncio.to_thread(self._store.exists, key)


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except UnknownModelException:
        raise
    except RuntimeError as error:  # it was closed before its loader
        raise UpstreamUnavailableException(f"The record store cannot be asked: {error}") from None


def _fits(record: Record, root_id: str) -> bool:
    return os.path.isabs(record.path) or not root_id or record.root_id == root_id


def _listed(models_dir: Path, path: str) -> dict[str, FileFacts]:
    place = models_dir / path
    if not place.is_dir() or not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(models_dir)):
        return {}
    found: dict[str, FileFacts] = {}
    for folder, _, names in os.walk(place):
        for name in names:
            file = Path(folder, name)
            with contextlib.suppress(OSError):  # gone, or a link that leads nowhere
                status = file.stat()
                found[file.relative_to(place).as_posix()] = FileFacts(status.st_size, status.st_mtime, "")
            if len(found) >= _MOST_FILES:
                return found
    return found
