"""Tries of jobs on threads, from the first byte to the delivered file."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelkeep.exceptions import DiskFullException, ModelkeepError
from modelkeep_common.room import disk_full, free_bytes
from modelkeep_download.domain.job import Job, SourceKind
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine import files, piece_map
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.delivery import delivered

T = TypeVar("T")

#: What this machine is short of only for a while, or a server of files that was away for a moment.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ESTALE})


class Source(Protocol):
    """A kind of source. Blocks; any thread may call it."""

    def take(self, attempt: Attempt) -> None:
        """Carry a job through to its delivered file.

        Raises:
            TransientError, StartOver, ModelkeepError, Stopped: As `Transfer.run`.
        """

    def leave(self, job: Job) -> None:
        """Do what follows the delivery at the source; safe to repeat."""


class Runner:
    """The `modelkeep_download.engine.ports.Tries` that run. Belongs to the event loop that makes it.

    Args:
        sources: Who takes jobs, by their kind.
        roots: Where files may be written.
        at_once: Tries that run at the same time, at most.
    """

    def __init__(self, sources: Mapping[SourceKind, Source], roots: Iterable[Path], at_once: int) -> None:
        self._sources, self._roots = sources, tuple(roots)
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(at_once, "modelkeep-transfer")

    async def run(self, attempt: Attempt) -> None:
        """See `Tries`."""
        await self._loop.run_in_executor(self._threads, self._take, attempt)

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """See `Tries`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def finished(self, jobs: Sequence[Job]) -> set[int]:
        """See `Tries`."""
        return await asyncio.to_thread(self._finished, jobs)

    async def recalled(self, jobs: Sequence[Job]) -> Mapping[int, ByteRanges]:
        """See `Tries`."""
        return await asyncio.to_thread(_recalled, jobs)

    async def discard(self, staging: str) -> None:
        """See `Tries`."""
        if staging:
            await asyncio.to_thread(files.remove_staging, staging)

    async def sweep(self, known: Collection[str]) -> None:
        """See `Tries`."""
        await asyncio.to_thread(files.remove_orphans, self._roots, known)

    async def with_room(
        self, jobs: Sequence[Job], reserve: int, to_come: Callable[[int], int]
    ) -> Sequence[int]:
        """See `Tries`."""
        return await asyncio.to_thread(_with_room, jobs, reserve, to_come)

    def close(self) -> None:
        """See `Tries`."""
        self._threads.shutdown(wait=False)

    def _take(self, attempt: Attempt) -> None:
        spec = attempt.job.spec
        try:
            self._sources[spec.kind].take(attempt)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(attempt.job) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                # Of what is written the path is known: what has only the end of one was read.
                is_source = spec.kind is SourceKind.PATH and error.filename is not None
                beneath = Path(spec.source) if is_source else spec.destination
                raise files.no_right(error, beneath) from error
            if error.errno in _PASSING:
                raise _short_of(error) from error
            raise

    def _finished(self, jobs: Sequence[Job]) -> set[int]:
        done = set()
        for job in filter(delivered, jobs):
            files.sync_folder(job.target.parent)
            self._sources[job.spec.kind].leave(job)
            files.remove_staging(job.staging)
            done.add(job.id)
        return done


class LoopClock:
    """The `modelkeep_download.engine.ports.Clock` of the event loop that makes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        """See `Clock`."""
        return time.time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """See `Clock`."""
        return self._loop.call_later(seconds, callback)


def _with_room(jobs: Sequence[Job], reserve: int, to_come: Callable[[int], int]) -> list[int]:
    left, found = dict[int, int](), list[int]()
    for job in jobs:
        folder = Path(job.staging or job.spec.root)
        inode = files.inode_of(folder)
        if inode is None:
            continue
        device, needed = inode[0], _needed(job)
        if device not in left:
            left[device] = free_bytes(folder) - reserve - to_come(device)
        if left[device] >= needed:
            left[device] -= needed
            found.append(job.id)
    return found


def _recalled(jobs: Sequence[Job]) -> Mapping[int, ByteRanges]:
    return {
        job.id: piece_map.recalled(Path(job.staging) / files.PARTIAL, job.object_id, job.have, job.boot)
        for job in jobs
        if job.staging and job.object_id
    }


def _disk_full(job: Job) -> DiskFullException:
    folder = job.spec.destination
    return disk_full(folder, needed=_needed(job), free=free_bytes(folder))


def _needed(job: Job) -> int:
    """Bytes that a job needs beyond those that it has, or that are reserved for it."""
    return max(1, (job.bytes_total or 0) - max(job.bytes_done, files.room_in(job.staging)))


def _short_of(error: OSError) -> TransientError:
    """The error for what this machine may have again in a moment."""
    text = f"the file system fails: {error.strerror}"
    remedy = (
        "Raise the limit on open files of DownloadService (ulimit -n), or let fewer downloads run at once."
    )
    metadata = {"remedy": remedy} if error.errno in (errno.EMFILE, errno.ENFILE) else {}
    return TransientError(text, metadata=metadata, final=ModelkeepError(text, metadata=metadata))
