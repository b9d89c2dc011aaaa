"""What a running try records about its job: called on the try's thread, carried out on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from modelkeep_common.room import check_room
from modelkeep_download.domain.job import Job, Stage, at_stage, started_over
from modelkeep_download.domain.names import choose_name
from modelkeep_download.domain.progress import ProgressMeter
from modelkeep_download.engine import files
from modelkeep_download.engine.transfer import Head
from modelkeep_download.engine.transport import Stopped

T = TypeVar("T")

#: Bytes written between two looks at the room that is left.
_LOOK_BYTES = 8 << 20


class JobRecords(Protocol):
    """Where the journal's notes go; its methods belong to the event loop."""

    async def change(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """Apply a transition in a transaction of its own; `synced` as for `Database.write`."""

    async def checkpoint(self, job_id: int, bytes_done: int) -> None:
        """Record the durable bytes."""

    def tell_progress(self, job_id: int) -> None:
        """The job's meter moved on by a step worth telling."""

    def bytes_to_come(self, device: int, *, besides: int) -> int:
        """Bytes that other running jobs will still write to a file system."""


class JobJournal:
    """A `modelkeep_download.engine.runner.Journal` of one try."""

    def __init__(
        self, job: Job, records: JobRecords, loop: asyncio.AbstractEventLoop, *, disk_reserve: int
    ) -> None:
        self._job = job
        self._records = records
        self._loop = loop
        self._disk_reserve = disk_reserve
        self._staging = job.staging
        self.meter = ProgressMeter(job.bytes_done, job.bytes_total)
        #: Where the room was looked at last, in bytes of the file; None while nothing is written.
        self._looked_at: int | None = None
        #: The most bytes that this try has brought the file to; 0 if none came.
        self.reached = 0

    @property
    def job(self) -> Job:
        """The job as it was recorded last."""
        return self._job

    def staged_in(self, staging: Path) -> None:
        """See `Journal`."""
        self._staging = str(staging)

    def responded(self, head: Head, *, offset: int) -> None:
        """Record what the source says, after making sure that the file will have a place."""
        job = self._job
        name = job.name or choose_name(job.id, head.filename, job.spec.source, head.final_url)
        target = replace(job, name=name).target
        if files.inode_of(target) is not None:
            raise files.destination_exists(target)
        self._check_room(1 if head.total is None else head.total - offset)
        self._looked_at = offset
        self.meter = ProgressMeter(offset, head.total)
        self._change(
            lambda job: at_stage(
                replace(
                    job,
                    bytes_done=offset,
                    bytes_total=head.total,
                    validator=head.validator,
                    final_url=head.final_url,
                    content_type=head.content_type or (job.content_type if offset else ""),
                    name=name,
                    failure=None,
                ),
                Stage.TRANSFERRING,
            ),
            # A power cut before the first checkpoint leaves nothing worth knowing of.
            synced=False,
        )

    def sized(self, total: int, *, room: bool) -> None:
        """See `Journal`."""
        if room:
            self._check_room(total)
            self._looked_at = 0
        self.meter = ProgressMeter(0, total)
        self._change(
            lambda job: at_stage(replace(job, bytes_done=0, bytes_total=total), Stage.TRANSFERRING),
            synced=False,
        )

    def advanced(self, bytes_done: int) -> None:
        """Count, and tell a step that is worth it."""
        self.reached = max(self.reached, bytes_done)
        if self._looked_at is not None and bytes_done - self._looked_at >= _LOOK_BYTES:
            self._looked_at = bytes_done
            to_come = max(1, (self.meter.total or 0) - bytes_done)
            check_room(Path(self._staging), to_come, self._disk_reserve)
        if self.meter.advance(bytes_done):
            self._loop.call_soon_threadsafe(self._records.tell_progress, self._job.id)

    def checkpoint(self, bytes_done: int) -> None:
        """See `Observer`."""
        self._wait(self._records.checkpoint(self._job.id, bytes_done))
        self._job = replace(self._job, bytes_done=bytes_done)

    def restarted(self, why: str, *, changed: bool) -> None:
        """See `Observer`; raises SourceChangedException when the object changed twice."""
        self.meter = ProgressMeter(0, None)
        self._change(lambda job: started_over(job, changed=changed))

    def delivering(self, inode: tuple[int, int], target: Path, sha256: str, *, verified: bool) -> None:
        """See `Journal`."""
        done = self.meter.bytes_done
        self._change(
            lambda job: at_stage(
                replace(
                    job,
                    staged_inode=inode,
                    sha256=sha256,
                    verified=verified,
                    bytes_done=done,
                    bytes_total=done,
                ),
                Stage.VERIFYING,
            )
        )

    def _check_room(self, needed: int) -> None:
        staging = Path(self._staging)
        others = self._records.bytes_to_come(staging.stat().st_dev, besides=self._job.id)
        check_room(staging, needed, self._disk_reserve + others)

    def _change(self, transition: Callable[[Job], Job], *, synced: bool = True) -> None:
        def noted(job: Job) -> Job:
            return job if job.state.terminal else transition(replace(job, staging=self._staging))

        self._job = self._wait(self._records.change(self._job.id, noted, synced=synced))
        if self._job.state.terminal:  # cancelled while it was started again: nobody looks after its files
            raise Stopped

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
