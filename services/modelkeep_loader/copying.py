"""Making a copy of a far file: what the disk tier builds."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeVar

from modelkeep.exceptions import CancelledException, InvalidModelException, ModelNotFoundException
from modelkeep_common.digests import Digests, Interrupted
from modelkeep_loader.domain.components import (
    BuildProgress,
    Built,
    ComponentRef,
    Identified,
    ModelFacts,
    Plan,
    SourceFile,
    Stage,
    changed,
    refuse_changed,
)
from modelkeep_loader.domain.digests import Digester, Known, wait_until_settled
from modelkeep_loader.domain.unreadable import busy, is_short
from modelkeep_loader.tiers.disk import CacheFolder, Copy, CopyMemory

T = TypeVar("T")

#: Files that are copied at a time.
_COPIES: Final = 2
#: Seconds that a copy which nobody wants any more may take to stop.
_LET_GO_S: Final = 5.0


class Fetcher:
    """Makes copies; a :class:`modelkeep_loader.domain.components.Builder` of the disk tier."""

    def __init__(
        self,
        folder: CacheFolder,
        digester: Digester,
        opener: Callable[[Path], AbstractContextManager[int]],
    ) -> None:
        self._folder = folder
        self._digester = digester
        self._opener = opener
        self._turn = asyncio.Semaphore(_COPIES)

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """See :class:`modelkeep_loader.domain.components.Builder`."""
        (file,) = plan.files
        expected = plan.digests[0].blake3 if plan.digests else ""
        progress(Stage.LOCALIZING, 0)
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def report(done: int) -> None:
            if done % (4 << 20) == 0:
                loop.call_soon_threadsafe(progress, Stage.LOCALIZING, done)

        def fetch() -> tuple[Copy, Digests]:
            with self._opener(file.path) as fd:
                refuse_changed(file, fd)
                wait_until_settled(file, stop)
                return self._folder.fetch(
                    fd,
                    with_sha256=False,
                    stop=stop.is_set,
                    on_progress=report,
                    check=lambda: refuse_changed(file, fd),
                )

        async with self._turn:
            copy, digests = await _in_thread(self._told(file, fetch), stop)
        if expected and copy.blake3 != expected:
            self._digester.forget(file)
            await asyncio.to_thread(self._folder.remove, copy)
            raise changed(file)
        self._digester.note(file, Known(digests, copy.read_at))
        await asyncio.to_thread(self._folder.note, copy.blake3, digests.sha256, origin(file))
        return built(self._folder, copy)

    def _told(self, file: SourceFile, work: Callable[[], T]) -> Callable[[], T]:
        """Work whose errors are in the words of models."""

        def run() -> T:
            try:
                return work()
            except FileNotFoundError:
                raise ModelNotFoundException(
                    f"{file.path.name} of {file.model!r} went away while it was copied.",
                    metadata={"path": str(file.path)},
                ) from None
            except Interrupted:
                raise CancelledException("The loader is shutting down.") from None
            except OSError as error:
                if is_short(error):
                    raise busy(error) from None
                raise InvalidModelException(
                    f"{file.path.name} of {file.model!r} cannot be copied to {self._folder.path}: "
                    f"{error.strerror}.",
                    metadata={"path": str(file.path), "detail": str(error.strerror)},
                    remedy=f"Look whether {file.path} and {self._folder.path} are well, and try again.",
                ) from None

        return run


async def _in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run work in a thread; whoever is cancelled has it stop first."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({running}, timeout=_LET_GO_S)
        running.add_done_callback(lambda task: task.cancelled() or task.exception())
        raise


def copy_plan(file: SourceFile, ref: ComponentRef, model: ModelFacts, blake3: str) -> Plan:
    """What makes a file's copy. Its id tells the contents, or the file while those are not known."""
    return Plan(
        ref=ref,
        id=id_of(blake3) if blake3 else _digest_of(f"file {origin(file)}"),
        content_addressed=True,
        library="",
        class_name="",
        config=None,
        overrides={},
        precision="",
        files=(file,),
        digests=(Identified(blake3, 0.0),) if blake3 else (),
        scaling_factor=None,
        size_bytes=file.size_bytes,
        model=model,
    )


def built(folder: CacheFolder, copy: Copy) -> Built:
    """A copy as what a build yields."""
    return Built(CopyMemory(folder, copy), (), {}, {}, frozenset())


def id_of(blake3: str) -> str:
    """The id of the resident of a file whose bytes are known."""
    return _digest_of(f"disk {blake3}")


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def origin(file: SourceFile) -> str:
    """What tells a far file, also after a restart: the number of a network's device is another one then."""
    return f"{file.path}:{file.signature.partition(':')[2]}"
