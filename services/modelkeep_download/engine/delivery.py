"""From a folder for the partial file to the delivered file, the same for every source.

The order is what makes a crash at any instant harmless: bytes durable, then recorded; hash compared;
file durable; its inode recorded; renamed without replacing; folder durable; only then COMPLETED. A
file that was renamed but not recorded is recognised by its inode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from modelkeep.exceptions import ChecksumMismatchException
from modelkeep_download.domain.job import Job
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine import files
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.transfer import Partial, Transfer


@contextlib.contextmanager
def staging_of(attempt: Attempt) -> Iterator[Path]:
    """The folder of the partial file; it goes again if the try ends before it is recorded."""
    job = attempt.job
    staging = Path(job.staging)
    if not job.staging or not staging.is_dir():
        staging = files.make_staging(job.spec.root, job.spec.destination, job.id)
        attempt.staged_in(staging)
    attempt.recall()
    try:
        yield staging
    except BaseException:
        if not attempt.job.staging:
            files.remove_staging(str(staging))
        raise


def fetch(transfer: Transfer, attempt: Attempt, staging: Path) -> None:
    """Bring what is missing into the partial file, compare its hash, and deliver it."""
    job = attempt.job
    partial = Partial(
        staging / files.PARTIAL,
        job.have,
        job.bytes_total,
        job.validator,
        hash_decides=bool(job.spec.expected_sha256) and not job.restarts,
        in_one_piece=bool(job.spec.expected_sha256) and job.restarts > 0,
        expected_sha256=job.spec.expected_sha256,
        local_copy=job.spec.local_copy,
        bandwidth=attempt.bandwidth,
    )
    sha256 = transfer.run(attempt.credentials, partial, attempt.hear, attempt.stop)
    attempt.put_together |= partial.have.size > 0
    _compare(sha256, attempt, staging)
    deliver(attempt, partial.path, sha256)


def deliver(attempt: Attempt, staged: Path, sha256: str, *, parent: int | None = None) -> None:
    """Bring a file or folder that is whole to the job's destination.

    Args:
        attempt: The try.
        staged: Where it lies; with `parent`, its last component is looked for there.
        sha256: Its hash; "" for a folder.
        parent: Descriptor of the folder that it lies in.
    """
    inode = files.sync_tree(staged, folder=parent)
    attempt.stop.check()
    attempt.delivering(inode, sha256)
    job = attempt.job
    files.deliver(staged, job.spec.root, job.target, parent=parent, replaces=job.spec.replace_existing)


def delivered(job: Job) -> bool:
    """Whether the job's file is at its destination already: renamed, but not recorded before a crash."""
    return job.staged_inode is not None and files.inode_of(job.target) == job.staged_inode


def _compare(sha256: str, attempt: Attempt, staging: Path) -> None:
    job = attempt.job
    expected = job.spec.expected_sha256
    if not expected or sha256 == expected:
        return
    if attempt.put_together and not job.restarts:
        # Put together from several answers: fetch it once in one piece before blaming the source.
        raise StartOver("the bytes do not have the expected hash", changed=False)
    if attempt.no_file is not None:
        raise attempt.no_file
    raise set_apart(staging / files.PARTIAL, job.target, expected=expected, actual=sha256)


def set_apart(partial: Path, target: Path, *, expected: str, actual: str) -> ChecksumMismatchException:
    """Put a file with a wrong hash where it is neither delivered nor gone on with; the error for it."""
    kept = files.quarantine(partial)
    return ChecksumMismatchException(
        f"the file has SHA-256 {actual}, not the expected {expected}; it lies in {kept}, not delivered",
        metadata={
            "path": str(target),
            "expected": expected,
            "actual": actual,
            "quarantined_path": str(kept),
        },
    )
