"""One try of one job: the job as this try has recorded it, and what the transfer's news do to it.

Its methods belong to the try's thread; what they record is written on the event loop, and they return when
it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from modelkeep.contents import BEGINNING_BYTES, TEXTS, Content, Kind, content_of, with_suffix
from modelkeep.exceptions import NotAModelFileException, SourceChangedException
from modelkeep_common.room import check_room
from modelkeep_common.urls import origin_of
from modelkeep_download.domain.job import FileStanding, Job, Stage
from modelkeep_download.domain.names import choose_name
from modelkeep_download.domain.progress import ProgressMeter
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.refusals import is_no_file, other_content
from modelkeep_download.domain.transitions import (
    at_stage,
    started_over,
)
from modelkeep_download.engine import files, piece_map
from modelkeep_download.engine.limits import JobBandwidth
from modelkeep_download.engine.stops import Stopped, StopSignal
from modelkeep_download.engine.transfer import (
    Answered,
    Began,
    Credentials,
    Durable,
    Head,
    News,
    Restarted,
    Shared,
    Written,
)

#: Bytes written between two looks at the room that is left.
_LOOK_BYTES = 8 << 20


Transition: TypeAlias = Callable[[Job], Job]


def check_size(source: str, expected: int | None, head: Head) -> None:
    """Make sure that an object has the bytes that are expected, as far as its source tells.

    Raises:
        SourceChangedException: It has others.
    """
    if expected is not None and head.total not in (None, expected):
        raise SourceChangedException(
            f"the source has {head.total} bytes, not the {expected} that were asked for",
            metadata={"source": source, "changes": "1"},
            remedy="Ask for the file with the size that it has now.",
        )


class Attempt:
    """What one try knows.

    Args:
        job: The job as it begins.
        credentials: Where its bytes come from.
        stop: Ends the try.
        change: Records a transition, and whether that must outlive a power cut; the job afterwards.
        moved: Called when the meter passed a step worth telling.
        others_to_come: Bytes that other running jobs will still write to a file system, by its device.
        reserve: Bytes to leave free on every file system.
        bandwidth: What its bytes from the network pass through; none by default.
    """

    def __init__(
        self,
        job: Job,
        credentials: Credentials,
        stop: StopSignal,
        *,
        change: Callable[[Transition, bool], Job],
        moved: Callable[[], None],
        others_to_come: Callable[[int], int],
        reserve: int,
        bandwidth: JobBandwidth | None = None,
    ) -> None:
        self.job = job
        self.credentials = credentials
        self.stop = stop
        self.bandwidth = bandwidth or JobBandwidth()
        self._change_row = change
        self._moved, self._others_to_come, self._reserve = moved, others_to_come, reserve
        self._staging = job.staging
        self.meter = ProgressMeter(job.bytes_done, job.bytes_total)
        #: Where the room was looked at last, in bytes of the file; None while nothing is written.
        self._looked_at: int | None = None
        #: What is wrong with the file's beginning, if the expected hash says so too.
        self.no_file: NotAModelFileException | None = None
        #: Whether the file system keeps the room for all of its bytes.
        self.reserved = False
        #: The most bytes that this try has brought the file to; 0 if none came.
        self.reached = 0
        #: Whether the row outlives a power cut: without it, what is there of the file counts for nothing.
        self._row_synced = False
        #: Whether more than one answer has a part in the file.
        self.put_together = False
        #: How far the files of several are: so many of those under way at most, or, for None, all; of other
        #: jobs none. Any thread may ask.
        self.standing: Callable[[int | None], tuple[FileStanding, ...]] = lambda most: ()
        #: Of several files: bytes that the file system keeps the room for, and that are not written yet.
        self.reserved_ahead = 0

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
            case Durable(have, synced):
                piece_map.keep(self.partial, self.job.object_id, have, durable=synced)
                if synced:
                    self._sync_row(have)
                    self.job = replace(self.job, have=have, boot="")
                elif self.stop.is_set and have.size != self.job.bytes_total:
                    # The try ends with what is written, and does not wait for the disk.
                    self.job = replace(self.job, have=have, boot=piece_map.boot_id())
            case Shared():
                self.put_together = True
            case Restarted(_, changed):
                self.forget_bytes()
                self.change(lambda job: started_over(job, changed=changed))
            case Written(bytes_done):
                self.advance(bytes_done)

    @property
    def to_come(self) -> int:
        """Bytes that it will still take of the room that is free; any thread may ask."""
        if self.reserved or self.meter.total is None:
            return 0
        return max(0, self.meter.total - self.meter.bytes_done - self.reserved_ahead)

    @property
    def partial(self) -> Path:
        """The partial file."""
        return Path(self._staging) / files.PARTIAL

    def staged_in(self, staging: Path) -> None:
        """The folder of the partial file exists; recorded with what comes next."""
        self._staging = str(staging)

    def recall(self) -> None:
        """What the partial file has, its own map tells besides the row."""
        job = self.job
        have = piece_map.recalled(self.partial, job.object_id, job.have, job.boot)
        boot = job.boot if have == job.have else piece_map.boot_id()
        self.job = replace(job, have=have, boot=boot)
        self.meter = ProgressMeter(have.size, job.bytes_total)

    def noted(self, job: Job) -> Job:
        """The job as its row has it, with what this try has brought besides."""
        if job.state.terminal or not job.object_id or job.object_id != self.job.object_id:
            return job
        return replace(job, have=self.job.have, boot=self.job.boot)

    def measured(self, total: int, *, room: bool) -> None:
        """The total is known without an answer of a source; `room`: so many bytes will be written."""
        if room:
            self.check_room(total)
            self._looked_at = 0
        self.meter = ProgressMeter(0, total)
        self.change(
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
        self.change(
            lambda job: at_stage(
                replace(
                    job,
                    staged_inode=inode,
                    sha256=sha256,
                    verified=bool(job.spec.expected_sha256),
                    have=ByteRanges.first(done),
                    boot="",
                    bytes_total=done,
                ),
                Stage.VERIFYING,
            )
        )

    def check_room(self, needed: int) -> None:
        """Raise DiskFullException unless so many bytes have room beside those that other jobs will write."""
        staging = Path(self._staging)
        check_room(staging, needed, self._reserve + self._others_to_come(staging.stat().st_dev))

    def _sync_row(self, have: ByteRanges) -> None:
        """Make durable, once, what the source's answer has changed in the row."""
        if not self._row_synced:
            self.change(lambda job: replace(job, have=have, boot=""))
            self._row_synced = True

    def change(self, transition: Transition, *, synced: bool = True) -> None:
        """Record a transition; without `synced` it need not outlive a power cut.

        Raises:
            Stopped: The job has ended meanwhile.
        """

        def noted(job: Job) -> Job:
            return job if job.state.terminal else transition(replace(job, staging=self._staging))

        self.job = self._change_row(noted, synced)
        if self.job.state.terminal:  # cancelled while it was started again: nobody looks after its files
            raise Stopped

    def _answered(self, head: Head, kept: ByteRanges) -> None:
        """Record what the source says, after making sure that the file will have a place."""
        self._row_synced = False
        job, total = self.job, head.total
        check_size(job.spec.source, job.spec.size, head)
        name = job.name or choose_name(job.id, head.filename, job.spec.source, head.final_url)
        target = replace(job, name=name).target
        files.check_free(target, replaces=job.spec.replace_existing)
        # An earlier try may have reserved some of it, or all.
        self.check_room(1 if total is None else total - max(kept.size, files.room_of(self.partial)))
        self.reserved = total is not None and files.reserve(self.partial, total)
        self._looked_at = None if self.reserved else kept.size
        self.meter = ProgressMeter(kept.size, total)
        # What an older map tells of other bytes than these must not count again.
        same = kept.size and kept == job.have and job.object_id
        object_id, boot = job.object_id if same else uuid.uuid4().hex, job.boot if kept.size else ""
        self.change(
            lambda job: at_stage(
                replace(
                    job,
                    have=kept,
                    boot=boot,
                    object_id=object_id,
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
        if kept.size and not same:
            piece_map.keep(self.partial, object_id, kept, durable=False)

    def _began(self, content: Content, content_type: str) -> None:
        """Refuse what is not the file, and give the file the suffix that its address does not tell."""
        job, self.no_file = self.job, None
        if is_no_file(content, content_type, job.target.name) or self._is_no_successor(content):
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
        files.check_free(target, replaces=job.spec.replace_existing)
        self.change(lambda job: replace(job, name=name), synced=False)

    def _is_no_successor(self, content: Content) -> bool:
        """Whether words or nothing come in place of an object of another kind, of which there are bytes."""
        if not self.job.have.size or content.kind not in (*TEXTS, Kind.EMPTY):
            return False
        with self.partial.open("rb") as partial:
            return content_of(partial.read(BEGINNING_BYTES)).kind is not content.kind
