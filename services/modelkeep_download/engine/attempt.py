"""One try of one job: the job as this try has recorded it, and what the transfer's news do to it.

Its methods belong to the try's thread; what they record is written on the event loop, and they return when
it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from modelkeep.contents import BEGINNING_BYTES, TEXTS, Content, Kind, content_of, is_in_place_of, with_suffix
from modelkeep.exceptions import NotAModelFileException
from modelkeep_common.room import check_room
from modelkeep_common.urls import origin_of
from modelkeep_download.domain.job import Job, Stage
from modelkeep_download.domain.names import choose_name
from modelkeep_download.domain.progress import ProgressMeter
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.refusals import HTML_TYPES, other_content
from modelkeep_download.domain.transitions import (
    at_stage,
    started_over,
)
from modelkeep_download.engine import files
from modelkeep_download.engine.transfer import (
    Answered,
    Began,
    Credentials,
    Durable,
    Head,
    News,
    Restarted,
    Written,
)
from modelkeep_download.engine.transport import Stopped, StopSignal

#: Bytes written between two looks at the room that is left.
_LOOK_BYTES = 8 << 20


Transition: TypeAlias = Callable[[Job], Job]


class Attempt:
    """What one try knows.

    Args:
        job: The job as it begins.
        credentials: Where its bytes come from.
        stop: Ends the try.
        change: Records a transition, and whether that must outlive a power cut; the job afterwards.
        checkpoint: Records the bytes that are durable.
        moved: Called when the meter passed a step worth telling.
        others_to_come: Bytes that other running jobs will still write to a file system, by its device.
        reserve: Bytes to leave free on every file system.
    """

    def __init__(
        self,
        job: Job,
        credentials: Credentials,
        stop: StopSignal,
        *,
        change: Callable[[Transition, bool], Job],
        checkpoint: Callable[[ByteRanges], None],
        moved: Callable[[], None],
        others_to_come: Callable[[int], int],
        reserve: int,
    ) -> None:
        self.job = job
        self.credentials = credentials
        self.stop = stop
        self._change_row, self._checkpoint = change, checkpoint
        self._moved, self._others_to_come, self._reserve = moved, others_to_come, reserve
        self._staging = job.staging
        self.meter = ProgressMeter(job.bytes_done, job.bytes_total)
        #: Where the room was looked at last, in bytes of the file; None while nothing is written.
        self._looked_at: int | None = None
        #: What is wrong with the file's beginning, if the expected hash says so too.
        self.no_file: NotAModelFileException | None = None
        #: The most bytes that this try has brought the file to; 0 if none came.
        self.reached = 0

    def hear(self, news: News) -> None:
        """Take a transfer's news in; see `Tell`.

        Raises:
            DestinationExistsException, DiskFullException: The file will have no place.
            NotAModelFileException: The source sends something in place of the file.
            SourceChangedException: The object changed for the second time.
            Stopped: The job has ended meanwhile.
        """
        match news:
            case Answered(head, kept):
                self._answered(head, kept)
            case Began(content, content_type):
                self._began(content, content_type)
            case Durable(have):
                self._checkpoint(have)
                self.job = replace(self.job, have=have)
            case Restarted(_, changed):
                self.forget_bytes()
                self._change(lambda job: started_over(job, changed=changed))
            case Written(bytes_done):
                self.advance(bytes_done)

    def staged_in(self, staging: Path) -> None:
        """The folder of the partial file exists; recorded with what comes next."""
        self._staging = str(staging)

    def measured(self, total: int, *, room: bool) -> None:
        """The total is known without an answer of a source; `room`: so many bytes will be written."""
        if room:
            self._check_room(total)
            self._looked_at = 0
        self.meter = ProgressMeter(0, total)
        self._change(
            lambda job: at_stage(replace(job, have=ByteRanges(), bytes_total=total), Stage.TRANSFERRING),
            synced=False,
        )

    def advance(self, bytes_done: int) -> None:
        """Count, look at the room now and then, and tell a step that is worth it."""
        self.reached = max(self.reached, bytes_done)
        if self._looked_at is not None and bytes_done - self._looked_at >= _LOOK_BYTES:
            self._looked_at = bytes_done
            to_come = max(1, (self.meter.total or 0) - bytes_done)
            check_room(Path(self._staging), to_come, self._reserve)
        if self.meter.advance(bytes_done):
            self._moved()

    def forget_bytes(self) -> None:
        """Nothing of what was fetched counts."""
        self.meter = ProgressMeter(0, None)

    def delivering(self, inode: tuple[int, int], sha256: str) -> None:
        """Record that the file is checked and durable, and about to be renamed."""
        done = self.meter.bytes_done
        self._change(
            lambda job: at_stage(
                replace(
                    job,
                    staged_inode=inode,
                    sha256=sha256,
                    verified=bool(job.spec.expected_sha256),
                    have=ByteRanges.first(done),
                    bytes_total=done,
                ),
                Stage.VERIFYING,
            )
        )

    def _answered(self, head: Head, kept: ByteRanges) -> None:
        """Record what the source says, after making sure that the file will have a place."""
        job, total = self.job, head.total
        name = job.name or choose_name(job.id, head.filename, job.spec.source, head.final_url)
        target = replace(job, name=name).target
        if files.inode_of(target) is not None:
            raise files.destination_exists(target)
        self._check_room(1 if total is None else total - kept.size)
        self._looked_at = kept.size
        self.meter = ProgressMeter(kept.size, total)
        self._change(
            lambda job: at_stage(
                replace(
                    job,
                    have=kept,
                    bytes_total=total,
                    validator=head.validator,
                    final_url=head.final_url,
                    content_type=head.content_type or (job.content_type if kept.size else ""),
                    name=name,
                    failure=None,
                ),
                Stage.TRANSFERRING,
            ),
            # A power cut before the first checkpoint leaves nothing worth knowing of.
            synced=False,
        )

    def _began(self, content: Content, content_type: str) -> None:
        """Refuse what is not the file, and give the file the suffix that its address does not tell."""
        job = self.job
        # What the bytes are known to be counts for more than what they are called.
        is_page = content_type in HTML_TYPES and content.kind in (*TEXTS, Kind.UNKNOWN)
        if is_page or is_in_place_of(content, job.target.name) or self._is_no_successor(content):
            host = origin_of(job.final_url or job.spec.source).host
            self.no_file = other_content(host, content, content_type, self.credentials.secrets)
            if not job.spec.expected_sha256 or job.have.size:  # else the hash decides
                raise self.no_file
        if job.spec.filename or not job.spec.destination_is_folder:
            return
        name = with_suffix(job.name, content)
        if name == job.name:
            return
        target = replace(job, name=name).target
        if files.inode_of(target) is not None:
            raise files.destination_exists(target)
        self._change(lambda job: replace(job, name=name), synced=False)

    def _is_no_successor(self, content: Content) -> bool:
        """Whether words or nothing come in place of an object of another kind, of which there are bytes."""
        if not self.job.have.size or content.kind not in (*TEXTS, Kind.EMPTY):
            return False
        with (Path(self._staging) / files.PARTIAL).open("rb") as partial:
            return content_of(partial.read(BEGINNING_BYTES)).kind is not content.kind

    def _check_room(self, needed: int) -> None:
        staging = Path(self._staging)
        check_room(staging, needed, self._reserve + self._others_to_come(staging.stat().st_dev))

    def _change(self, transition: Transition, *, synced: bool = True) -> None:
        def noted(job: Job) -> Job:
            return job if job.state.terminal else transition(replace(job, staging=self._staging))

        self.job = self._change_row(noted, synced)
        if self.job.state.terminal:  # cancelled while it was started again: nobody looks after its files
            raise Stopped
