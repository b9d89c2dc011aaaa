"""The true digests of installed files, computed in the background and written to their records."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from modelkeep.backoff import Backoff
from modelkeep.exceptions import DiskFullException, ModelkeepError, UnknownModelException
from modelkeep.taxonomy import DigestState

from .domain.ports import TRY_AGAIN, DigestWork, JobStore, RecordFile, RecordPort
from .domain.roots import ModelRoots
from .files import is_same_time
from .hashing import Digesting, Digests, Interrupted, digest_file

_log = logging.getLogger(__name__)

_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0
#: Seconds that a file is hashed before others have their turn; every so many turns the oldest model has it.
_TURN_S, _OLDEST_EVERY = 1.0, 4
#: Files that go on where they were; of more, the one that has come least far begins anew.
_PARKED = 64
#: Between two looks for the record of a long file, in seconds.
_LOOK_EVERY_S = 5.0


class DigestWorker:
    """Hashes one file at a time, on a thread of its own, so that installs never wait for it.

    What is to be hashed is a row that the install's last step writes with it; each file's digests are
    stored when they are known. A long file keeps nobody waiting: it is hashed in turns of a second, smaller
    files come first, and every fourth turn is the oldest model's, so that it comes to its end too. Between
    turns it is looked whether the file and its record are still there.
    """

    def __init__(self, store: JobStore, records: RecordPort, roots: ModelRoots) -> None:
        self._store = store
        self._records = records
        self._roots = roots
        self._wanted = asyncio.Event()
        self._to_write = asyncio.Event()
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._tasks: list[asyncio.Task[None]] = []
        self._begun: dict[tuple[str, str], Digesting] = {}
        self._turns = itertools.count(1)
        self._looked_for: dict[str, float] = {}

    def start(self) -> None:
        """Begins with what earlier runs left."""
        self._wanted.set()
        self._to_write.set()
        self._tasks = [
            asyncio.create_task(self._hash_all(), name="digests"),
            asyncio.create_task(self._write_all(), name="digests-to-records"),
        ]

    def wake(self) -> None:
        """There is a new model to hash."""
        self._wanted.set()
        self._to_write.set()  # a model without files is done at once

    async def close(self) -> None:
        """Stops inside the present file."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._thread.shutdown)

    async def _hash_all(self) -> None:
        waits = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        while True:
            self._wanted.clear()
            try:
                while (found := await self._next()) is not None:
                    work, file = found
                    hashed = await self._hash(work, file)
                    if hashed is not None:
                        await self._store.save_digest(work.key, hashed)
                        self._to_write.set()
                    elif not await self._is_wanted(work.key):
                        await self._store.drop_digests(work.key)
                self._begun.clear()
                self._looked_for.clear()
                waits.reset()
            except Interrupted:
                return
            except DiskFullException:
                await asyncio.sleep(waits.next())
                continue
            except Exception:
                _log.exception("hashing stopped by a defect; it goes on with the next install")
            await self._wanted.wait()

    async def _next(self) -> tuple[DigestWork, RecordFile] | None:
        return await self._store.pending_digest(oldest=next(self._turns) % _OLDEST_EVERY == 0)

    async def _is_wanted(self, key: str) -> bool:
        """Whether the record is there; asked for a long file now and then."""
        now = time.monotonic()
        if now - self._looked_for.setdefault(key, now) < _LOOK_EVERY_S:
            return True
        self._looked_for[key] = now
        try:
            await self._records.get(key)
        except UnknownModelException:
            return False
        except ModelkeepError as error:
            _log.info("whether %s is still wanted cannot be told: %s", key, error)
        return True

    def _turn(self, path: Path, begun: Digesting) -> Digests | None:
        """In a thread: hashes on for a second; None if that was not enough."""
        end = time.monotonic() + _TURN_S
        try:
            return digest_file(
                path,
                self._roots.open,
                stop=lambda: self._stop.is_set() or time.monotonic() > end,
                begun=begun,
            )
        except Interrupted:
            if self._stop.is_set():
                raise
            return None

    async def _hash(self, work: DigestWork, file: RecordFile) -> RecordFile | None:
        """The file with its digests, or why not; None after a turn that did not come to its end."""
        location = Path(work.location)
        path = location / file.path if work.is_folder else location
        name = (work.key, file.path)
        # of what was downloaded, SHA-256 was taken on the way
        begun = self._begun.pop(name, None) or Digesting(with_sha256=not file.sha256)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._turn, path, begun)
            if found is None:
                self._park(name, begun)
                return None
        except (ModelkeepError, OSError) as error:
            _log.warning("cannot hash %s: %s", path, error)
            return replace(file, sha256="", state=DigestState.Failed)
        if found.size_bytes != file.size_bytes or not is_same_time(found.modify_time, file.modify_time):
            # also while it was read: the digests would be of no content that the file ever had
            _log.warning("%s changed since it was installed: it has no digests", path)
            return replace(file, sha256="", state=DigestState.Failed)
        sha256 = file.sha256 or found.sha256
        verified = file.path in work.verified or sha256 == work.expected_sha256.lower()
        return replace(
            file,
            sha256=sha256,
            blake3=found.blake3,
            state=DigestState.Verified if verified else DigestState.Computed,
        )

    def _park(self, name: tuple[str, str], begun: Digesting) -> None:
        self._begun[name] = begun
        if len(self._begun) > _PARKED:
            del self._begun[min(self._begun, key=lambda each: self._begun[each].done)]

    async def _write_all(self) -> None:
        waits = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        while True:
            self._to_write.clear()
            try:
                for work in await self._store.digested():
                    await self._write(work)
                waits.reset()
            except (*TRY_AGAIN, DiskFullException):
                await asyncio.sleep(waits.next())
                continue
            except Exception:
                _log.exception("digests could not be written to a record; tried again with the next install")
            await self._to_write.wait()

    async def _write(self, work: DigestWork) -> None:
        try:
            request_id = _request_id(work)
            await self._records.replace_files(work.key, work.files, request_id)
        except UnknownModelException:
            pass  # uninstalled meanwhile
        except ModelkeepError as error:
            if isinstance(error, TRY_AGAIN) or error.code == "INTERNAL":
                raise
            _log.warning("RecordService refuses the digests of %s: %s", work.key, error)
        await self._store.drop_digests(work.key)


def _request_id(work: DigestWork) -> str:
    return str(uuid.uuid5(uuid.UUID(work.uid), "digests"))
