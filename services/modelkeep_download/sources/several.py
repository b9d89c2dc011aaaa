"""Several files as one download: each is fetched and checked by itself, and they are delivered together.

What is known of a file lies beside its partial file in the job's staging folder, `<number>.data`. Before the
first rename a list of what is to be renamed is made durable, so that a crash in the middle is gone on from.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from modelkeep.contents import Content
from modelkeep.exceptions import (
    ModelkeepError,
    NotAModelFileException,
    SourceChangedException,
)
from modelkeep_common.urls import origin_of
from modelkeep_download.domain.job import FileFacts, FileSpec, FileStanding, Job, Stage
from modelkeep_download.domain.progress import ProgressMeter
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.refusals import is_no_file, other_content
from modelkeep_download.domain.retry import StartOver, TransientError
from modelkeep_download.domain.transitions import at_stage
from modelkeep_download.engine import files, piece_map
from modelkeep_download.engine.attempt import Attempt, check_size
from modelkeep_download.engine.crew import Crew
from modelkeep_download.engine.delivery import set_apart, staging_of
from modelkeep_download.engine.durable import replace_file
from modelkeep_download.engine.ledger import Ledger
from modelkeep_download.engine.standing import LEDGER, partial_of, told_of
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import (
    Answered,
    Began,
    Credentials,
    Durable,
    Head,
    News,
    Partial,
    Restarted,
    Shared,
    Transfer,
    Written,
)

#: Files at once of one job.
_AT_ONCE = 8
#: Of small ones, if it takes long until they come.
_SMALL_AT_ONCE, _SMALL_BYTES = 16, 1 << 20
#: From so many bytes on, what a file has is worth a sync of its own before all are delivered.
_SYNC_BYTES = 8 << 20
_DELIVERY = "delivery"
#: What a job of several files has as its `object_id`: that of each is told beside it.
_OBJECT = "several"


class SeveralSource:
    """A `modelkeep_download.engine.runner.Source` of several addresses.

    Args:
        transfer: Fetches each of them.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def take(self, attempt: Attempt) -> None:
        """See `Source`."""
        with staging_of(attempt) as staging:
            several = _Several(attempt, staging)
            listed = (staging / _DELIVERY).exists()
            if not listed:
                _check_free(attempt.job)
                self._fetch(several, attempt)
                several.delivering(listed=False)
                _settle(attempt.job, staging)
            attempt.stop.check()
            if listed:
                several.delivering(listed=True)
            _deliver(attempt.job, staging)
            # The list of what is delivered goes with the staging folder, before the job's end is recorded.
            there = files.inode_of(attempt.job.spec.destination)
            attempt.change(lambda job: replace(job, staged_inode=there))

    def leave(self, job: Job) -> None:
        """See `Source`: nothing is left behind."""

    def _fetch(self, several: _Several, attempt: Attempt) -> None:
        """Bring every file to its whole; one that fails for now is no reason not to fetch the others."""
        stop = attempt.stop.branch()
        passing: list[TransientError] = []

        def fetch(file: _File) -> None:
            try:
                with several.under_way(file):
                    self._fetch_one(file, attempt, stop)
            except TransientError as error:
                passing.append(error)

        def at_once(file: _File) -> int:
            return _SMALL_AT_ONCE if (file.size or 0) <= _SMALL_BYTES else _AT_ONCE

        try:
            Crew(several.files, fetch, at_once, stop.stop).run()
        finally:
            several.settle()
        if passing:
            raise passing[0]

    def _fetch_one(self, file: _File, attempt: Attempt, stop: StopSignal) -> None:
        own = attempt.credentials
        source = Credentials(file.spec.source, token=own.token)
        try:
            try:
                self._run(file, source, attempt, stop)
            except StartOver:
                file.forget()
                self._run(file, source, attempt, stop)
        except ModelkeepError as error:
            error.metadata.setdefault("source", file.spec.source)
            error.message = f"{file.spec.path}: {error.message}"
            raise
        except TransientError as error:
            error.message = f"{file.spec.path}: {error.message}"
            raise
        except StartOver as error:
            raise TransientError(f"{file.spec.path}: {error.message}") from error

    def _run(self, file: _File, source: Credentials, attempt: Attempt, stop: StopSignal) -> None:
        partial = file.known(attempt)
        sha256 = self._transfer.run(source, partial, file.hear, stop)
        expected = file.spec.expected_sha256
        if expected and sha256 != expected:
            if (partial.have.size or file.put_together) and partial.hash_decides:
                # Put together from several answers: fetch it once more before blaming the source.
                raise StartOver("the bytes do not have the expected hash", changed=False)
            raise file.wrong(sha256)
        file.whole(sha256)


class _Several:
    """The files of one try, and what they come to together. Safe to share between their threads."""

    def __init__(self, attempt: Attempt, staging: Path) -> None:
        self.attempt = attempt
        self._lock = threading.Lock()
        self._answered = False
        specs = attempt.job.spec.files
        self.ledger = Ledger(staging / LEDGER)
        self.files = [_File(self, spec, staging, at) for at, spec in enumerate(specs)]
        self._under_way: dict[int, _File] = {}
        self._done = sum(file.done for file in self.files)
        self._total = sum(file.size or 0 for file in self.files)
        #: How many files there are whose sizes nobody has told.
        self._unknown = sum(file.size is None for file in self.files)
        if not self._unknown:  # room for all of them, before the first is asked for
            attempt.check_room(sum(file.lacks_room for file in self.files))
        attempt.meter = ProgressMeter(self._done, None if self._unknown else self._total)
        attempt.reserved_ahead = sum(file.ahead for file in self.files)
        attempt.standing = self._standing

    @contextlib.contextmanager
    def under_way(self, file: _File) -> Iterator[None]:
        """A file is being fetched inside."""
        self._under_way[file.number] = file
        try:
            yield
        finally:
            del self._under_way[file.number]

    def _standing(self, most: int | None) -> tuple[FileStanding, ...]:
        # Without the lock, which is held while the event loop, which asks this too, records an answer.
        under_way = list(self._under_way.values())
        files = self.files if most is None else sorted(under_way, key=lambda file: file.number)[:most]
        return tuple(FileStanding(file.spec.path, file.done, file.size) for file in files)

    def answered(self, head: Head, *, is_new: bool, needed: int, grown: int) -> None:
        """A file's source has answered: by so many bytes it is larger than was known.

        `is_new`: nobody had told the size, and so many bytes need room.
        """
        with self._lock:
            self._unknown -= is_new
            self._total += grown
            if is_new:
                self.attempt.check_room(needed)
            total = None if self._unknown else self._total
            if self._answered and not (is_new and total is not None):
                return
            self._answered, self.attempt.meter.total = True, total

            def begun(job: Job) -> Job:
                final_url = job.final_url or head.final_url
                job = replace(job, object_id=_OBJECT, bytes_total=total, final_url=final_url, failure=None)
                return at_stage(job, Stage.TRANSFERRING)

            self.attempt.change(begun, synced=False)

    def moved(self, count: int, ahead: int = 0) -> None:
        """A file has so many more bytes than before, or fewer; and so many more for which room is kept."""
        with self._lock:
            self._done += count
            self.attempt.reserved_ahead += ahead
            self.attempt.advance(self._done)

    def settle(self) -> None:
        """The try's fetching is over: its row shall tell what there is."""
        have, boot = ByteRanges.first(self._done), piece_map.boot_id()  # not all of it is on the disk
        self.attempt.job = replace(self.attempt.job, have=have, boot=boot)

    def delivering(self, *, listed: bool) -> None:
        """All files are checked, and about to be renamed; `listed`: as an earlier try has found."""
        facts = tuple(FileFacts(file.size, file.sha256) for file in self.files)

        def recorded(job: Job) -> Job:
            if not listed:
                done = sum(fact.bytes_total or 0 for fact in facts)
                verified = all(file.expected_sha256 for file in job.spec.files)
                have = ByteRanges.first(done)
                job = replace(job, file_facts=facts, verified=verified, have=have, bytes_total=done)
            return at_stage(job, Stage.VERIFYING)

        self.attempt.change(recorded)


class _File:
    """One file of a try. Its methods belong to the thread that fetches it."""

    def __init__(self, several: _Several, spec: FileSpec, staging: Path, number: int) -> None:
        self.spec, self.path, self.number = spec, partial_of(staging, number), number
        self.sha256 = ""
        self._several = several
        self._restarts = self._changes = 0
        #: Whether more than one answer has a part in it.
        self.put_together = False
        self._no_file: NotAModelFileException | None = None
        object_id, have = told_of(staging, number, several.ledger)
        total, _, validator = object_id.partition(" ")
        #: As its source tells.
        self.total = int(total) if total.isdigit() else None
        self._validator, self._have = validator, have
        self.done = have.size
        #: Bytes that the file system keeps the room for, and that are not written yet.
        room = files.room_of(self.path)
        self.ahead = max(0, (room if self.size is None else min(room, self.size)) - self.done)

    @property
    def size(self) -> int | None:
        """Its bytes, as its source or the caller tells; None while unknown."""
        return self.spec.size if self.total is None else self.total

    @property
    def lacks_room(self) -> int:
        """Bytes that it needs beyond what it has, or an earlier try has reserved for it."""
        return max(0, (self.size or 0) - self.done - self.ahead)

    def known(self, attempt: Attempt) -> Partial:
        """What there is of it."""
        expected = self.spec.expected_sha256
        return Partial(
            self.path,
            self._have,
            self.total,
            self._validator,
            hash_decides=bool(expected) and not self._restarts,
            in_one_piece=bool(expected) and self._restarts > 0,
            expected_sha256=expected,
            local_copy=self.spec.local_copy,
            bandwidth=attempt.bandwidth,
        )

    def hear(self, news: News) -> None:
        """See `Tell`."""
        match news:
            case Answered(head, kept):
                self._answered(head, kept)
            case Began(content, content_type):
                self._began(content, content_type)
            case Written(bytes_done):
                self._moved(bytes_done)
            case Durable(have, synced):
                self._have = have
                if self.total is not None:
                    piece_map.keep(self.path, self._object_id, have, durable=synced)
            case Shared():
                self.put_together = True
            case Restarted(_, changed):
                self.forget()
                self._changes += changed
                if self._changes > 1:
                    text = f"the object behind {self.spec.source} changed twice while it was fetched"
                    raise SourceChangedException(
                        text,
                        metadata={"source": self.spec.source, "changes": str(self._changes)},
                        remedy="Try again later; where expected_sha256 is given, that alone decides.",
                    )

    def forget(self) -> None:
        """Nothing of what was fetched counts."""
        piece_map.forget(self.path)
        self._several.ledger.forget(self.number)
        self._have, self.put_together = ByteRanges(), False
        self._moved(0)
        self._restarts += 1

    def whole(self, sha256: str) -> None:
        """It is there, and has this hash, which is the expected one."""
        self.sha256 = sha256
        self.total = self.path.stat().st_size
        self._have = ByteRanges.first(self.total)
        if self.total >= _SYNC_BYTES:
            files.sync_tree(self.path)
            piece_map.keep(self.path, self._object_id, self._have, durable=True)
        else:
            self._several.ledger.note(self.number, self._object_id, self.total)
        self._moved(self.total)

    def wrong(self, sha256: str) -> ModelkeepError:
        """The error for a file with another hash than the expected one; it is set apart."""
        if self._no_file is not None:
            return self._no_file
        target = self._several.attempt.job.spec.destination / self.spec.path
        return set_apart(self.path, target, expected=self.spec.expected_sha256, actual=sha256)

    @property
    def _object_id(self) -> str:
        return f"{self.total} {self._validator}"

    def _moved(self, bytes_done: int) -> None:
        more, self.done = bytes_done - self.done, bytes_done
        self._keep_ahead(max(0, self.ahead - max(0, more)), more)

    def _keep_ahead(self, ahead: int, more: int = 0) -> None:
        """So many bytes have their room, and so many more are there."""
        ahead_before, self.ahead = self.ahead, ahead
        self._several.moved(more, ahead - ahead_before)

    def _answered(self, head: Head, kept: ByteRanges) -> None:
        check_size(self.spec.source, self.spec.size, head)
        if kept != self._have or (self.total, self._validator) != (head.total, head.validator):
            piece_map.forget(self.path)
        is_new, before = self.size is None and head.total is not None, self.size or 0
        self.total, self._validator, self._have = head.total, head.validator, kept
        needed, grown = (head.total or 0) - kept.size, (self.size or 0) - before
        self._several.answered(head, is_new=is_new, needed=needed, grown=grown)
        self._moved(kept.size)
        if head.total is not None and files.reserve(self.path, head.total):
            self._keep_ahead(head.total - kept.size)

    def _began(self, content: Content, content_type: str) -> None:
        name, self._no_file = self.spec.path.rpartition("/")[2], None
        if is_no_file(content, content_type, name):
            host = origin_of(self.spec.source).host
            secrets = self._several.attempt.credentials.secrets
            self._no_file = other_content(host, content, content_type, secrets)
            if not self.spec.expected_sha256 or self._have.size:  # else the hash decides
                raise self._no_file


def _check_free(job: Job) -> None:
    for target in job.targets:
        files.check_free(target, replaces=job.spec.replace_existing)


def _settle(job: Job, staging: Path) -> None:
    """Make every file durable, and then the list of them."""
    paths = [partial_of(staging, number) for number in range(len(job.spec.files))]
    with ThreadPoolExecutor(4, "modelkeep-sync") as pool:
        inodes = list(pool.map(files.sync_tree, paths))
    listed = [{"path": file.path, "inode": inode} for file, inode in zip(job.spec.files, inodes, strict=True)]
    replace_file(staging / _DELIVERY, json.dumps(listed).encode())


def _deliver(job: Job, staging: Path) -> None:
    """Rename every file that is not at its place yet."""
    listed = json.loads((staging / _DELIVERY).read_bytes())
    folders: set[Path] = set()
    for number, told in enumerate(listed):
        staged, target = partial_of(staging, number), job.spec.destination / told["path"]
        if files.inode_of(target) != tuple(told["inode"]):
            files.deliver(staged, job.spec.root, target, replaces=job.spec.replace_existing, synced=False)
        folders.add(target.parent)
    for folder in folders:
        files.sync_folder(folder)
