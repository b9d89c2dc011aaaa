"""The true digests of installed files, computed in the background and written to their records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import DiskFullException, ModelkeepError, UnknownModelException

from .domain_ports import DigestState, DigestWork, JobStore, RecordFile, RecordPort
from .domain_roots import ModelRoots
from .domain_steps import TRY_AGAIN
from .hashing import Interrupted, digest_file

_log = logging.getLogger(__name__)

#: File systems keep times more coarsely than they first tell them.
_SAME_TIME_S = 0.01
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0


class DigestWorker:
    """Hashes one file at a time, on a thread of its own, so that installs never wait for it.

    What is to be hashed is a row that the install's last step writes with it; each file's digests are
    stored when they are known, so a restart loses one file's work at most.
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
        delay = _FIRST_RETRY_S
        while True:
            self._wanted.clear()
            try:
                while (work := await self._store.digest_work()) is not None:
                    for file in work.files:
                        if file.state is DigestState.PENDING:
                            await self._store.save_digest(work.key, await self._hash(work, file))
                    self._to_write.set()
                delay = _FIRST_RETRY_S
            except Interrupted:
                return
            except DiskFullException:
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY_S)
                continue
            except Exception:
                _log.exception("hashing stopped by a defect; it goes on with the next install")
            await self._wanted.wait()

    async def _hash(self, work: DigestWork, file: RecordFile) -> RecordFile:
        location = Path(work.location)
        path = location / file.path if work.is_folder else location
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._thread, lambda: digest_file(path, self._roots.open, stop=self._stop.is_set)
            )
        except (ModelkeepError, OSError) as error:
            _log.warning("cannot hash %s: %s", path, error)
            return replace(file, state=DigestState.FAILED)
        if found.size_bytes != file.size_bytes or abs(found.modify_time - file.modify_time) > _SAME_TIME_S:
            # also while it was read: the digests would be of no content that the file ever had
            _log.warning("%s changed since it was installed: it has no digests", path)
            return replace(file, state=DigestState.FAILED)
        verified = work.expected_sha256 and found.sha256 == work.expected_sha256.lower()
        return replace(
            file,
            sha256=found.sha256,
            blake3=found.blake3,
            state=DigestState.VERIFIED if verified else DigestState.COMPUTED,
        )

    async def _write_all(self) -> None:
        delay = _FIRST_RETRY_S
        while True:
            self._to_write.clear()
            try:
                for work in await self._store.digested():
                    await self._write(work)
                delay = _FIRST_RETRY_S
            except (*TRY_AGAIN, DiskFullException):
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LAST_RETRY_S)
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
