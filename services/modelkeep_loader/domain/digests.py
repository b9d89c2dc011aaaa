"""What the bytes of installed files are: digests that the loader computes itself.

Identities rest on these and on nothing else. A file is read once, and its digest kept for as long as its
device, inode, size and both its times stay as they are; nobody can set the time of the last change of its
status. The build that follows finds the bytes in the page cache.

Yet a file may change without a sign: through a mapping whose pages are dirty already, or on a network file
system that makes its inodes and times up. So a build reads it anew if the digest is not of this moment
(:func:`verify`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modelkeep.exceptions import CancelledException
from modelkeep_common.digests import Digests, Interrupted, digest_descriptor
from modelkeep_loader.domain.components import Identified, Plan, SourceFile, changed, refuse_changed

#: Two changes in quick succession may leave the same time: a file is not read before it is this old.
_SETTLED_S: Final = 0.05
_KEPT: Final = 16_384
#: Files that are read at a time.
_READERS: Final = 2
#: Seconds that a reading which nobody waits for any more may take to stop.
_LET_GO_S: Final = 5.0
#: Seconds that a digest is of this moment.
_FRESH_S: Final = 5.0


@dataclass(slots=True)
class Reading:
    """How far the reading for identities is, for whoever waits for it. Bytes."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """The digests of a file, and when, in monotonic seconds, the last byte was read."""

    digests: Digests
    read_at: float


@dataclass(slots=True, eq=False)
class _Work:
    task: asyncio.Task[Known]
    stop: threading.Event
    waiting: int = 0
    done: int = 0
    readings: list[Reading] = field(default_factory=list)


class Digester:
    """Computes digests, each once. Belongs to one event loop.

    Args:
        opener: Opens a file for reading, beneath the roots; yields its descriptor.
    """

    def __init__(self, opener: Callable[[Path], AbstractContextManager[int]]) -> None:
        self._opener = opener
        self._kept: OrderedDict[str, Known] = OrderedDict()
        self._running: dict[tuple[str, bool], _Work] = {}
        self._turn = asyncio.Semaphore(_READERS)

    async def digest(self, file: SourceFile, *, with_sha256: bool, reading: Reading) -> Known:
        """The digests of a file, which must still be the one that was looked at.

        Args:
            file: The file.
            with_sha256: Whether SHA-256 is needed besides BLAKE3; it takes several times as long.
            reading: Told how far it is.

        Raises:
            InvalidModelException: The file is another one meanwhile, or was changed while it was read.
            CancelledException: The digester was closed.
            OSError: It cannot be read.
        """
        if (kept := self.known(file, with_sha256=with_sha256)) is not None:
            self._kept.move_to_end(file.signature)
            reading.done += file.size_bytes
            return kept
        work = self._running.get((file.signature, with_sha256))
        if work is None or work.stop.is_set():
            work = self._begin(file, with_sha256)
        work.waiting += 1
        work.readings.append(reading)
        reading.done += work.done
        try:
            # Shielded: others may wait for the same file.
            return await asyncio.shield(work.task)
        except Interrupted:
            raise CancelledException("The loader is shutting down.") from None
        finally:
            work.waiting -= 1
            work.readings.remove(reading)
            if work.waiting == 0:
                work.stop.set()

    def known(self, file: SourceFile, *, with_sha256: bool) -> Known | None:
        """The digests of a file if it need not be read for them."""
        kept = self._kept.get(file.signature)
        return kept if kept is not None and (kept.digests.sha256 or not with_sha256) else None

    def note(self, file: SourceFile, known: Known) -> None:
        """What a file is was learnt by another reading of it."""
        self._kept[file.signature] = known
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def forget(self, file: SourceFile) -> None:
        """The digest is not to be relied on: read the file anew when it is asked for."""
        self._kept.pop(file.signature, None)

    def close(self) -> None:
        """Stop inside the present files."""
        for work in self._running.values():
            work.stop.set()

    def _begin(self, file: SourceFile, with_sha256: bool) -> _Work:
        stop = threading.Event()
        key = (file.signature, with_sha256)
        task = asyncio.get_running_loop().create_task(self._run(file, with_sha256, stop), name="digest")
        work = self._running[key] = _Work(task, stop)

        def finished(task: asyncio.Task[Known]) -> None:
            if self._running.get(key) is work:
                del self._running[key]
            if not task.cancelled():
                task.exception()  # nobody may wait for it any more

        task.add_done_callback(finished)
        return work

    async def _run(self, file: SourceFile, with_sha256: bool, stop: threading.Event) -> Known:
        loop = asyncio.get_running_loop()

        def advance(done: int) -> None:
            work = self._running.get((file.signature, with_sha256))
            if work is not None and work.stop is stop:
                for reading in work.readings:
                    reading.done += done - work.done
                work.done = done

        def read() -> Digests:
            with self._opener(file.path) as fd:
                refuse_changed(file, fd)
                wait_until_settled(file, stop)
                found = digest_descriptor(
                    fd,
                    with_sha256=with_sha256,
                    stop=stop.is_set,
                    on_progress=lambda done: _on_loop(loop, advance, done),
                )
                refuse_changed(file, fd)
                return found

        async with self._turn:
            if stop.is_set():
                raise Interrupted
            reading = asyncio.create_task(asyncio.to_thread(read))
            while not reading.done():
                is_over = stop.is_set()
                await asyncio.wait({reading}, timeout=_LET_GO_S)
                if is_over and not reading.done():
                    # A read that hangs in the system does not stop, and must not keep its turn for ever.
                    reading.add_done_callback(lambda task: task.cancelled() or task.exception())
                    raise Interrupted
            found = Known(reading.result(), time.monotonic())
        self.note(file, found)
        return found


def verify(plan: Plan, descriptors: Sequence[int], stop: Callable[[], bool]) -> None:
    """Read anew what was not read just now; blocks, in a thread beside the build.

    Args:
        plan: What is being built.
        descriptors: Its files, open.
        stop: Asked all the time; true ends it.

    Raises:
        ChangedMeanwhileException: A file is another one than the plan's id says.
        Interrupted: `stop` said so.
        OSError: It cannot be read.
    """
    for file, known, fd in zip(plan.files, plan.digests, descriptors, strict=True):
        if is_fresh(known) and file.is_ours:
            continue
        if digest_descriptor(fd, with_sha256=False, stop=stop).blake3 != known.blake3:
            raise changed(file)


def is_fresh(known: Identified) -> bool:
    """Whether a file was read a moment ago."""
    return time.monotonic() - known.read_at < _FRESH_S


def wait_until_settled(file: SourceFile, stop: threading.Event) -> None:
    """Blocks until a file's times would tell another change.

    Raises:
        Interrupted: `stop` was set.
    """
    left = file.change_time_ns / 1e9 + _SETTLED_S - time.time()
    # A time that lies in the future is no reason to wait: then the clocks differ, and nothing is known.
    if 0 < left <= _SETTLED_S and stop.wait(left):
        raise Interrupted


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[int], None], done: int) -> None:
    if done % (16 << 20) == 0:
        loop.call_soon_threadsafe(call, done)
