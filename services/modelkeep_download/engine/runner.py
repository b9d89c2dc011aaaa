"""One try of one job, from the first byte to the delivered file. Blocking; runs on a thread of its own.

The order is what makes a crash at any instant harmless: bytes durable, then recorded; hash compared;
file durable; its inode recorded; renamed without replacing; folder durable; only then COMPLETED. A
file that was renamed but not recorded is recognised by its inode.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelkeep.exceptions import (
    ChecksumMismatchException,
    DiskFullException,
    FieldInvalidException,
    FieldViolation,
    ForbiddenPathException,
    SourceNotFoundException,
)
from modelkeep_common.paths import AllowedRoots
from modelkeep_common.room import disk_full, free_bytes
from modelkeep_download.domain.job import Job, SourceKind
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine import files
from modelkeep_download.engine.transfer import Credentials, Observer, Partial, Transfer
from modelkeep_download.engine.transport import StopSignal
from modelkeep_download.sources import local

_log = logging.getLogger(__name__)


class Journal(Observer, Protocol):
    """What a try has recorded about its job; each call but `advanced` and `staged_in` returns when it is."""

    @property
    def job(self) -> Job:
        """The job as it is recorded now."""

    def staged_in(self, staging: Path) -> None:
        """The folder of the partial file exists; recorded with what comes next."""

    def sized(self, total: int, *, room: bool) -> None:
        """The total is known without an answer of a source; `room`: so many bytes will be written."""

    def delivering(self, inode: tuple[int, int], target: Path, sha256: str, *, verified: bool) -> None:
        """The file is checked and durable, and is about to be renamed."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs tries. Safe to share between threads."""

    http: Transfer
    local: Transfer
    #: Where local sources may lie.
    sources: AllowedRoots

    def run(self, source: Credentials, journal: Journal, stop: StopSignal) -> None:
        """Carry the job through to its delivered file; the caller records the end.

        Raises:
            TransientError, StartOver, ModelkeepError, Stopped: As `Transfer.run`.
        """
        try:
            if journal.job.spec.kind is SourceKind.URL:
                with self._staging(journal) as staging:
                    self._fetch(self.http, source, staging, journal, stop)
            else:
                self._take_local(source, journal, stop)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(journal.job) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                spec = journal.job.spec
                # Of what is written the path is known: what has only the end of one was read.
                is_source = spec.kind is SourceKind.PATH and error.filename is not None
                beneath = Path(spec.source) if is_source else spec.destination
                raise files.no_right(error, beneath) from error
            raise

    def _fetch(
        self, transfer: Transfer, source: Credentials, staging: Path, journal: Journal, stop: StopSignal
    ) -> None:
        job = journal.job
        partial = Partial(staging / files.PARTIAL, job.bytes_done, job.bytes_total, job.validator)
        resumed = partial.offset > 0
        sha256 = transfer.run(source, partial, journal, stop)
        self._compare(sha256, journal, staging, resumed=resumed)
        self._deliver(partial.path, sha256, journal, stop)

    def _compare(self, sha256: str, journal: Journal, staging: Path, *, resumed: bool) -> None:
        job = journal.job
        expected = job.spec.expected_sha256
        if not expected or sha256 == expected:
            return
        if resumed and not job.restarts:
            # Put together from several answers: fetch it once in one piece before blaming the source.
            raise StartOver("the bytes do not have the expected hash", changed=False)
        kept = files.quarantine(staging)
        raise ChecksumMismatchException(
            f"the file has SHA-256 {sha256}, not the expected {expected}; it lies in {kept}, not delivered",
            metadata={
                "path": str(job.target),
                "expected": expected,
                "actual": sha256,
                "quarantined_path": str(kept),
            },
        )

    def _take_local(self, source: Credentials, journal: Journal, stop: StopSignal) -> None:
        spec, path = journal.job.spec, Path(source.url)
        found = local.open_source(self.sources, path)
        try:
            is_folder = stat.S_ISDIR(os.fstat(found).st_mode)
            if is_folder and spec.expected_sha256:
                violation = FieldViolation("expected_sha256", "a folder has no single hash")
                raise FieldInvalidException("the source is a folder", violations=[violation])
            with self._staging(journal) as staging:
                movable = not spec.copy and files.mount_of(found) == files.mount_at(staging)
                if is_folder:
                    self._take_folder(path, found, staging, journal, stop, movable=movable)
                elif movable and not local.has_other_names(found):
                    self._move_file(path, found, journal, stop)
                else:
                    self._fetch(self.local, source, staging, journal, stop)
                    self._remove_moved_source(journal.job)
        finally:
            os.close(found)

    def _move_file(self, path: Path, found: int, journal: Journal, stop: StopSignal) -> None:
        journal.sized(os.fstat(found).st_size, room=False)
        sha256 = local.hash_file(path, found, journal.advanced, stop)
        expected = journal.job.spec.expected_sha256
        if expected not in ("", sha256):
            raise ChecksumMismatchException(
                f"{path} has SHA-256 {sha256}, not {expected}; it stays where it is",
                metadata={"path": str(path), "expected": expected, "actual": sha256},
            )
        self._move(path, found, sha256, journal, stop)

    def _take_folder(
        self, path: Path, found: int, staging: Path, journal: Journal, stop: StopSignal, *, movable: bool
    ) -> None:
        total, has_links = local.measure_tree(self.sources, path, found)
        # A link that is moved may lead nowhere, or out of the roots: what it leads to is copied. So is a file
        # with another name, by which it could be written to afterwards.
        movable = movable and not has_links
        journal.sized(total, room=not movable)
        if movable:
            journal.advanced(total)
            self._move(path, found, "", journal, stop)
            return
        staged = staging / files.PARTIAL
        local.copy_tree(self.sources, path, found, staged, journal.advanced, stop)
        self._deliver(staged, "", journal, stop)
        self._remove_moved_source(journal.job)

    def _move(self, path: Path, found: int, sha256: str, journal: Journal, stop: StopSignal) -> None:
        """Deliver the source itself, which lies on the destination's file system."""
        with local.folder_of(self.sources, path) as parent:
            if files.inode_of(Path(path.name), folder=parent) != files.inode_in(os.fstat(found)):
                raise StartOver(f"{path} is another one now", changed=True)
            self._deliver(path, sha256, journal, stop, parent=parent)

    @contextlib.contextmanager
    def _staging(self, journal: Journal) -> Iterator[Path]:
        """The folder of the partial file; it goes again if the try ends before it is recorded."""
        job = journal.job
        staging = Path(job.staging)
        if not job.staging or not staging.is_dir():
            staging = files.make_staging(job.spec.root, job.spec.destination, job.id)
            journal.staged_in(staging)
        try:
            yield staging
        except BaseException:
            if not journal.job.staging:
                files.remove_staging(str(staging))
            raise

    def _deliver(
        self, staged: Path, sha256: str, journal: Journal, stop: StopSignal, *, parent: int | None = None
    ) -> None:
        job = journal.job
        inode = files.sync_tree(staged, folder=parent)
        stop.check()
        verified = bool(job.spec.expected_sha256)
        journal.delivering(inode, job.target, sha256, verified=verified)
        files.deliver(staged, job.spec.root, job.target, parent=parent)

    def finish_delivery(self, job: Job) -> None:
        """Do again what follows the rename of a job that was `delivered`; safe to repeat."""
        files.sync_folder(job.target.parent)
        self._remove_moved_source(job)

    def _remove_moved_source(self, job: Job) -> None:
        """Remove the source of a move across file systems, after the copy is at its destination.

        The job is done all the same where that fails, as on a file system that is read-only.
        """
        if job.spec.kind is not SourceKind.PATH or job.spec.copy:
            return
        path = Path(job.spec.source)
        try:
            with local.folder_of(self.sources, path) as parent:
                found = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    local.remove_copied(self.sources, path, job.target)
                elif job.validator == local.validator_of(found) or job.staged_inode == files.inode_in(found):
                    os.unlink(path.name, dir_fd=parent)  # copied, or linked and not yet unlinked
        except FileNotFoundError:
            return
        except (OSError, ForbiddenPathException, SourceNotFoundException):
            _log.warning("download %s: its source %s could not be removed", job.id, path, exc_info=True)


def _disk_full(job: Job) -> DiskFullException:
    to_come = max(1, (job.bytes_total or 0) - job.bytes_done)
    folder = job.spec.destination
    return disk_full(folder, needed=to_come, free=free_bytes(folder))


def delivered(job: Job) -> bool:
    """Whether the job's file is at its destination already: renamed, but not recorded before a crash."""
    return job.staged_inode is not None and files.inode_of(job.target) == job.staged_inode
