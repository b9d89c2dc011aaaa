"""The service's side of the helper process: starts it when it is needed, and again when it has died.

One process at a time, one build at a time: builds are bound by memory bandwidth, and two would only
share it. It is started at the first build, or before with :meth:`Helper.warm`, and ended after it was
idle for a while, since the libraries that it imports take some hundred MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelkeep import processes
from modelkeep.exceptions import (
    BY_REASON,
    InvalidModelException,
    ModelkeepError,
    ModelNotFoundException,
    RamExhaustedException,
)
from modelkeep.headers import read_header
from modelkeep.worker.manifest import METADATA_KEY, Manifest
from modelkeep_common.paths import AllowedRoots
from modelkeep_convert import frames, sealed
from modelkeep_convert.request import Build
from modelkeep_loader.domain.components import BuildProgress, Built, Plan, Stage, refuse_changed
from modelkeep_loader.domain.digests import verify
from modelkeep_loader.tiers.ram import SealedMemory

_log = logging.getLogger(__name__)


class _HelperDied(Exception):
    """The process ended in the middle of a build."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


class Helper:
    """Builds components in the helper process; a :class:`modelkeep_loader.domain.components.Builder`.

    Args:
        roots: What may be read; the helper gets descriptors of files beneath them, no paths.
        idle_s: Seconds without a build after which the process is ended.
    """

    def __init__(self, roots: AllowedRoots, *, idle_s: float = 300.0) -> None:
        self._roots = roots
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._process: processes.Process | None = None
        self._socket: socket.socket | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id of the helper; 0 if none is running."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def warm(self) -> None:
        """Start the process and let it import its libraries, so that the first build need not wait."""
        async with self._turn:
            with contextlib.suppress(_HelperDied):
                await self._ask({"warm": True}, [], lambda stage, done: None)
            self._rest()

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """See :class:`modelkeep_loader.domain.components.Builder`."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return await self._build(plan, progress)
            finally:
                self._rest()

    async def close(self) -> None:
        """End the process."""
        if self._idle is not None:
            self._idle.cancel()
        await asyncio.to_thread(self._stop)

    # One build.

    async def _build(self, plan: Plan, progress: BuildProgress) -> Built:
        progress(Stage.READING, 0)
        descriptors = await asyncio.to_thread(self._open, plan)
        wanted = Build(
            library=plan.library,
            class_name=plan.class_name,
            config=None if plan.config is None else dict(plan.config),
            precision=plan.precision,
            files=[file.path.name for file in plan.files],
            base=plan.model.base,
            scaling_factor=plan.scaling_factor,
            overrides=dict(plan.overrides),
            name=f"modelkeep:{plan.id[:12]}:{plan.class_name}",
        )
        request = {"build": asdict(wanted)}
        stop = threading.Event()
        verifying = asyncio.ensure_future(asyncio.to_thread(verify, plan, descriptors, stop.is_set))
        try:
            answer, memory = await self._ask(request, descriptors, progress)
            try:
                await asyncio.shield(verifying)  # its thread reads the descriptors, whoever waits for it
            except BaseException:
                for fd in memory:
                    os.close(fd)
                raise
            if "error" not in answer:
                return await asyncio.to_thread(_accept, memory, plan, descriptors)
        except _HelperDied as died:
            raise _explain(plan, died.returncode) from None
        finally:
            stop.set()
            await asyncio.gather(verifying, return_exceptions=True)
            for fd in descriptors:
                os.close(fd)
        error = answer["error"]
        cls = BY_REASON.get(error["reason"], InvalidModelException)
        raise cls(error["message"], metadata={"path": str(plan.model.location), **error["metadata"]})

    def _open(self, plan: Plan) -> list[int]:
        opened: list[int] = []
        try:
            for file in plan.files:
                opened.append(self._roots.open_beneath(file.path, os.O_RDONLY | os.O_NONBLOCK))
            _check_unchanged(plan, opened)
        except FileNotFoundError:
            for fd in opened:
                os.close(fd)
            raise ModelNotFoundException(
                f"{plan.files[len(opened)].path.name} of {plan.model.name!r} has gone.",
                metadata={"key": plan.ref.key, "path": str(plan.model.location)},
            ) from None
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return opened

    async def _ask(
        self, request: dict[str, Any], descriptors: Sequence[int], progress: BuildProgress
    ) -> tuple[dict[str, Any], list[int]]:
        loop = asyncio.get_running_loop()

        def report(done: int) -> None:
            loop.call_soon_threadsafe(progress, Stage.CONVERTING, done)

        def exchange() -> tuple[dict[str, Any], list[int]]:
            link = self._start()
            try:
                frames.send_frame(link, request, descriptors)
                while (frame := frames.receive_frame(link)) is not None:
                    if "progress" not in frame[0]:
                        return frame
                    report(frame[0]["progress"])
            except OSError as error:
                _log.warning("the helper process does not answer: %s", error)
            raise _HelperDied(self._stop())

        work = asyncio.ensure_future(asyncio.to_thread(exchange))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Only a shutdown cancels a build; ending the process frees the thread.
            if self._process is not None:
                self._process.kill()
            with contextlib.suppress(Exception):
                _, memory = await work
                for fd in memory:
                    os.close(fd)
            raise

    # The process. These block: called from threads.

    def _start(self) -> socket.socket:
        if self._process is not None and self._socket is not None and self._process.returncode is None:
            return self._socket
        self._stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = processes.start(
                "modelkeep_convert",
                *("--fd", str(theirs.fileno())),
                keep_open=[theirs.fileno()],
                # A build under way is of no use to anybody any more.
                death_signal=signal.SIGKILL,
            )
        self._socket = ours
        return ours

    def _stop(self) -> int:
        process, link = self._process, self._socket
        self._process = self._socket = None
        if link is not None:
            link.close()
        if process is None:
            return 0
        # It ends by itself when its socket closes; a build under way is not worth waiting for.
        return process.end()

    def _rest(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self._idle = None
        self._ending = asyncio.get_running_loop().create_task(self._end(), name="end idle helper")

    async def _end(self) -> None:
        # In its turn: a build that begins in this very moment must not have its process ended.
        async with self._turn:
            if self._idle is None:
                await asyncio.to_thread(self._stop)


def _check_unchanged(plan: Plan, sources: Sequence[int]) -> None:
    for file, fd in zip(plan.files, sources, strict=True):
        refuse_changed(file, fd)


def _accept(descriptors: Sequence[int], plan: Plan, sources: Sequence[int]) -> Built:
    """Take over what the helper made, after a look at it: it has read files from anywhere."""
    try:
        _check_unchanged(plan, sources)
        fd = descriptors[0]
        if not sealed.is_sealed(fd):
            raise InvalidModelException("The helper's memory is not sealed.")
        header = read_header(fd, Path("the helper's memory"), whole=(METADATA_KEY,))
        manifest = Manifest.from_json(header.metadata[METADATA_KEY])
        return Built(
            memory=SealedMemory(sealed.open_readonly(fd)),
            tensors=header.tensors,
            config=manifest.config,
            aliases=manifest.aliases,
            buffers=frozenset(manifest.buffers),
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _explain(plan: Plan, returncode: int) -> ModelkeepError:
    if returncode == -signal.SIGKILL:
        return RamExhaustedException(
            f"The helper process was killed while it built {plan.class_name}, most likely because the "
            "host or the container ran out of memory: lower ram_budget_bytes.",
            metadata={"holders": ""},
            retry_after=5.0,
        )
    how = signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
    return InvalidModelException(
        f"The helper process broke down ({how}) while it built {plan.class_name} from the model's files.",
        metadata={"path": str(plan.model.location), "detail": f"helper: {how}"},
    )
