"""Jobs of a local path: its file or folder is moved, or copied with the same checks as a download."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from pathlib import Path

from modelkeep.exceptions import (
    ChecksumMismatchException,
    FieldInvalidException,
    FieldViolation,
    ForbiddenPathException,
    SourceNotFoundException,
)
from modelkeep_common.paths import AllowedRoots
from modelkeep_download.domain.job import Job
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.domain.retry import StartOver
from modelkeep_download.engine import files
from modelkeep_download.engine.attempt import Attempt
from modelkeep_download.engine.delivery import deliver, fetch, staging_of
from modelkeep_download.engine.stops import StopSignal
from modelkeep_download.engine.transfer import (
    BUFFER_BYTES,
    Answered,
    Credentials,
    Durable,
    Head,
    Partial,
    Restarted,
    Tell,
    Written,
)
from modelkeep_download.engine.verify import digest_of
from modelkeep_download.sources import tree

_log = logging.getLogger(__name__)


class LocalSource:
    """A `modelkeep_download.engine.runner.Source` of local paths.

    Args:
        roots: Where sources may lie.
    """

    def __init__(self, roots: AllowedRoots, *, checkpoint_bytes: int, checkpoint_s: float) -> None:
        self._roots = roots
        self._copy = LocalTransfer(roots, checkpoint_bytes=checkpoint_bytes, checkpoint_s=checkpoint_s)

    def take(self, attempt: Attempt) -> None:
        """See `Source`."""
        spec, path = attempt.job.spec, Path(attempt.credentials.url)
        found = tree.open_source(self._roots, path)
        try:
            is_folder = stat.S_ISDIR(os.fstat(found).st_mode)
            if is_folder and spec.expected_sha256:
                violation = FieldViolation("expected_sha256", "a folder has no single hash")
                raise FieldInvalidException("the source is a folder", violations=[violation])
            with staging_of(attempt) as staging:
                movable = not spec.copy and files.mount_of(found) == files.mount_at(staging)
                if is_folder:
                    self._take_folder(path, found, staging, attempt, movable=movable)
                elif movable and not tree.has_other_names(found):
                    self._move_file(path, found, attempt)
                else:
                    fetch(self._copy, attempt, staging)
                    self.leave(attempt.job)
        finally:
            os.close(found)

    def leave(self, job: Job) -> None:
        """See `Source`: what was moved to another file system by a copy is removed.

        The job is done all the same where that fails, as on a file system that is read-only.
        """
        if job.spec.copy:
            return
        path = Path(job.spec.source)
        try:
            with tree.folder_of(self._roots, path) as parent:
                found = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    tree.remove_copied(self._roots, path, job.target)
                elif job.validator == tree.validator_of(found) or job.staged_inode == files.inode_in(found):
                    os.unlink(path.name, dir_fd=parent)  # copied, or linked and not yet unlinked
        except FileNotFoundError:
            return
        except (OSError, ForbiddenPathException, SourceNotFoundException):
            _log.warning("download %s: its source %s could not be removed", job.id, path, exc_info=True)

    def _move_file(self, path: Path, found: int, attempt: Attempt) -> None:
        attempt.measured(os.fstat(found).st_size, room=False)
        sha256 = tree.hash_file(path, found, attempt.advance, attempt.stop)
        expected = attempt.job.spec.expected_sha256
        if expected not in ("", sha256):
            raise ChecksumMismatchException(
                f"{path} has SHA-256 {sha256}, not {expected}; it stays where it is",
                metadata={"path": str(path), "expected": expected, "actual": sha256},
            )
        self._move(path, found, sha256, attempt)

    def _take_folder(self, path: Path, found: int, staging: Path, attempt: Attempt, *, movable: bool) -> None:
        total, has_links = tree.measure_tree(self._roots, path, found)
        # A link that is moved may lead nowhere, or out of the roots: what it leads to is copied. So is a file
        # with another name, by which it could be written to afterwards.
        movable = movable and not has_links
        attempt.measured(total, room=not movable)
        if movable:
            attempt.advance(total)
            self._move(path, found, "", attempt)
            return
        staged = staging / files.PARTIAL
        tree.copy_tree(self._roots, path, found, staged, attempt.advance, attempt.stop)
        deliver(attempt, staged, "")
        self.leave(attempt.job)

    def _move(self, path: Path, found: int, sha256: str, attempt: Attempt) -> None:
        """Deliver the source itself, which lies on the destination's file system."""
        with tree.folder_of(self._roots, path) as parent:
            if files.inode_of(Path(path.name), folder=parent) != files.inode_in(os.fstat(found)):
                raise StartOver(f"{path} is another one now", changed=True)
            deliver(attempt, path, sha256, parent=parent)


class LocalTransfer:
    """Copies one local file; a `modelkeep_download.engine.transfer.Transfer` whose URL is a path.

    Args:
        roots: Where sources may lie.
    """

    def __init__(self, roots: AllowedRoots, *, checkpoint_bytes: int, checkpoint_s: float) -> None:
        self._roots = roots
        self._checkpoint_bytes, self._checkpoint_s = checkpoint_bytes, checkpoint_s

    def run(self, source: Credentials, partial: Partial, tell: Tell, stop: StopSignal) -> str:
        """See `Transfer.run`."""
        path = Path(source.url)
        reader = tree.regular(tree.open_source(self._roots, path), path)
        try:
            writer = os.open(partial.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                return self._copy(path, reader, writer, partial, tell, stop)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _copy(
        self,
        path: Path,
        reader: int,
        writer: int,
        partial: Partial,
        tell: Tell,
        stop: StopSignal,
    ) -> str:
        found = os.fstat(reader)
        validator, size = tree.validator_of(found), found.st_size
        offset = partial.have.prefix if partial.validator == validator else 0
        if partial.have.size and (not offset or os.fstat(writer).st_size < offset):
            tell(Restarted("the local file changed", changed=True))
            offset = 0
        os.ftruncate(writer, offset)
        digest = digest_of(writer, offset, stop)
        tell(Answered(Head(size, validator, path.name, "", ""), ByteRanges.first(offset)))
        sink = _Sink(writer, digest, offset, tell, self._checkpoint_bytes, self._checkpoint_s)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            while count := os.preadv(reader, [buffer], sink.at):
                stop.check()
                sink.write(buffer[:count])
            stop.check()
        except BaseException:
            sink.checkpoint()
            raise
        tree.check_unchanged(path, reader, found, sink.at)
        return digest.hexdigest()


class _Sink:
    """Writes and hashes what comes, and makes it durable now and then.

    Attributes:
        at: Offset of the next byte.
    """

    def __init__(
        self, fd: int, digest: hashlib._Hash, at: int, tell: Tell, every_bytes: int, every_s: float
    ) -> None:
        self.at = at
        self._fd, self._digest, self._tell = fd, digest, tell
        self._every_bytes, self._every_s = every_bytes, every_s
        self._durable, self._durable_time = at, time.monotonic()
        self._failed = False

    def write(self, piece: memoryview | bytes | bytearray) -> None:
        """Take the next bytes of the object."""
        view = memoryview(piece)
        self._digest.update(view)
        while view:
            written = os.pwrite(self._fd, view, self.at)
            self.at += written
            view = view[written:]
        self._tell(Written(self.at))
        due = self.at - self._durable >= self._every_bytes
        if due or time.monotonic() - self._durable_time >= self._every_s:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make what was written durable, and have that recorded."""
        if self.at > self._durable and not self._failed:
            # Not repeated after it failed: the kernel has dropped the pages then, and says that all is well.
            self._failed = True
            os.fdatasync(self._fd)
            self._failed = False
            self._tell(Durable(ByteRanges.first(self.at)))
            self._durable = self.at
        self._durable_time = time.monotonic()
