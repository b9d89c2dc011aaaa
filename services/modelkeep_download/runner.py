"""One try of one job, from the first byte to the delivered file. Blocking; runs on a thread of its own.

The order is what makes a crash at any instant harmless: bytes durable, then recorded; hash compared;
file durable; its inode recorded; renamed without replacing; folder durable; only then COMPLETED. A
file that was renamed but not recorded is recognised by its inode.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelkeep.exceptions import ChecksumMismatchException, FieldInvalidException, FieldViolation
from modelkeep_download import files
from modelkeep_download.domain import Job, SourceKind
from modelkeep_download.domain_retry import StartOver
from modelkeep_download.local import (
    copy_tree,
    hash_file,
    remove_copied,
    source_missing,
    tree_size,
    validator_of,
)
from modelkeep_download.transfer import Credentials, Observer, Partial, Transfer
from modelkeep_download.transport import StopSignal


class Journal(Observer, Protocol):
    """What a try has recorded about its job; each call but `advanced` returns when that is durable."""

    @property
    def job(self) -> Job:
        """The job as it is recorded now."""

    def staged_in(self, staging: Path) -> None:
        """The folder of the partial file exists."""

    def sized(self, total: int) -> None:
        """The total is known without an answer of a source."""

    def delivering(self, inode: tuple[int, int], target: Path, sha256: str, *, verified: bool) -> None:
        """The file is checked and durable, and is about to be renamed."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs tries. Safe to share between threads."""

    http: Transfer
    local: Transfer
    #: Raises ForbiddenPathException for a local path that may not be read.
    check_source: Callable[[Path], object]

    def run(self, source: Credentials, journal: Journal, stop: StopSignal) -> None:
        """Carry the job through to its delivered file; the caller records the end.

        Raises:
            TransientError, StartOver, ModelkeepError, Stopped: As `Transfer.run`.
        """
        try:
            if journal.job.spec.kind is SourceKind.URL:
                self._fetch(self.http, source, journal, stop)
            else:
                self._take_local(source, journal, stop)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise files.disk_full(journal.job.spec.destination) from error
            raise

    def _fetch(self, transfer: Transfer, source: Credentials, journal: Journal, stop: StopSignal) -> None:
        staging = self._staging(journal)
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
        self.check_source(path)
        if not path.exists():
            raise source_missing(path)
        if stat.S_ISDIR(path.stat().st_mode) and spec.expected_sha256:
            violation = FieldViolation("expected_sha256", "a folder has no single hash")
            raise FieldInvalidException("the source is a folder", violations=[violation])
        staging = self._staging(journal)
        movable = not spec.copy and path.stat().st_dev == staging.stat().st_dev
        if path.is_dir():
            self._take_folder(path, staging, journal, stop, movable=movable)
        elif movable:
            journal.sized(path.stat().st_size)
            validator = validator_of(path)
            sha256 = hash_file(path, journal.advanced, stop)
            if spec.expected_sha256 not in ("", sha256):
                raise ChecksumMismatchException(
                    f"{path} has SHA-256 {sha256}, not {spec.expected_sha256}; it stays where it is",
                    metadata={"path": str(path), "expected": spec.expected_sha256, "actual": sha256},
                )
            if validator_of(path) != validator:
                raise StartOver("the local file changed", changed=True)
            self._deliver(path, sha256, journal, stop)
        else:
            self._fetch(self.local, source, journal, stop)
            if not spec.copy:
                remove_moved_source(path, journal.job)

    def _take_folder(
        self, path: Path, staging: Path, journal: Journal, stop: StopSignal, *, movable: bool
    ) -> None:
        total = tree_size(path)
        journal.sized(total)
        if movable:
            journal.advanced(total)
            self._deliver(path, "", journal, stop)
            return
        files.check_room(staging, total, 0)
        staged = staging / files.PARTIAL
        copy_tree(path, staged, self.check_source, journal.advanced, stop)
        self._deliver(staged, "", journal, stop)
        if not journal.job.spec.copy:
            remove_moved_source(path, journal.job)

    def _staging(self, journal: Journal) -> Path:
        job = journal.job
        if job.staging and Path(job.staging).is_dir():
            return Path(job.staging)
        staging = files.make_staging(job.spec.root, job.spec.destination, job.id)
        journal.staged_in(staging)
        return staging

    def _deliver(self, staged: Path, sha256: str, journal: Journal, stop: StopSignal) -> None:
        job = journal.job
        files.sync_file(staged)
        inode = files.inode_of(staged)
        if inode is None:
            raise source_missing(staged)
        stop.check()
        verified = bool(job.spec.expected_sha256)
        journal.delivering(inode, job.target, sha256, verified=verified)
        files.deliver(staged, job.spec.root, job.target)


def delivered(job: Job) -> bool:
    """Whether the job's file is at its destination already: renamed, but not recorded before a crash."""
    return job.staged_inode is not None and files.inode_of(job.target) == job.staged_inode


def finish_delivery(job: Job) -> None:
    """Do again what follows the rename; safe to repeat."""
    folder = os.open(job.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    if job.spec.kind is SourceKind.PATH and not job.spec.copy:
        remove_moved_source(Path(job.spec.source), job)


def remove_moved_source(path: Path, job: Job) -> None:
    """Remove the source of a move across file systems, after the copy is at its destination."""
    if files.inode_of(path) in (None, job.staged_inode):
        return
    if path.is_dir() and not path.is_symlink():
        remove_copied(path, job.target)
    elif validator_of(path) == job.validator:
        path.unlink()
