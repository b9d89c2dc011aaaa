"""The service's side of the helper process: starts it when it is needed, and again when it has died.

One process at a time, one build at a time: builds are bound by memory bandwidth, and two would only
share it. It is started at the first build, or before with :meth:`Helper.warm`, and ended after it was
idle for a while, since the libraries that it imports take some hundred MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from modelkeep import frames
from modelkeep.exceptions import (
    BY_REASON,
    InvalidModelException,
    ModelkeepError,
    ModelNotFoundException,
    RamExhaustedException,
)
from modelkeep.worker.manifest import Kind
from modelkeep_convert.request import Build
from modelkeep_loader.domain.components import BuildProgress, Built, Plan, Stage, refuse_changed
from modelkeep_loader.domain.digests import verify
from modelkeep_loader.domain.unreadable import unreadable
from modelkeep_loader.linked import LET_GO_S, Linked
from modelkeep_loader.objects import pack
from modelkeep_loader.tiers.ram import take_memory

_log = logging.getLogger(__name__)

#: How often a build is looked at, in milliseconds, and what one takes besides what goes by its size.
_LOOK_MS: Final = 50
_USUAL_BYTES: Final = 1 << 30
#: Of what a build takes besides the component, as much is the process's own affair: modules that it imports
#: late, and what its allocators keep. It is not counted against the budget.
_LIBRARY_BYTES: Final = 256 << 20
#: Seconds that the process may take to start; it imports the libraries.
_START_S: Final = 180.0


class _HelperDied(Exception):
    """The process ended in the middle of a build."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


class _Overrun(Exception):
    """A build took more than it may, and its process was ended."""

    def __init__(self, error: ModelkeepError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What one build may take.

    Attributes:
        timeout_s: Seconds.
        memory_bytes: Bytes besides the component itself; 0 for what is usual for one of its size.
    """

    timeout_s: float = 900.0
    memory_bytes: int = 0

    def memory_for(self, plan: Plan) -> int:
        """Bytes that the build of this one may take besides it."""
        largest = max(plan.size_bytes, sum(file.size_bytes for file in plan.files))
        return self.memory_bytes or _USUAL_BYTES + 2 * largest


@dataclass(frozen=True, slots=True)
class Gathered:
    """Where the bytes of a component lie; see :class:`modelkeep_convert.build.Gathered`. Close it.

    Attributes:
        files: Open files of the component, in the order of the plan, through which nobody else reads.
    """

    head: int
    made: int
    files: Sequence[int]
    size_bytes: int
    segments: Sequence[Sequence[int]]

    def close(self) -> None:
        """Close all of them."""
        _close_all([self.head, self.made, *self.files])


class Opens(Protocol):
    """Opens files that may be read."""

    def open_beneath(self, path: Path, flags: int) -> int:
        """See :meth:`modelkeep_common.paths.AllowedRoots.open_beneath`."""
        ...


class Helper:
    """Builds components in the helper process; a :class:`modelkeep_loader.domain.components.Builder`.

    Args:
        roots: What may be read; the helper gets descriptors of files beneath them, no paths.
        idle_s: Seconds without a build after which the process is ended.
        limits: Of every build; the process is ended that goes beyond.
    """

    def __init__(self, roots: Opens, *, idle_s: float = 300.0, limits: BuildLimits | None = None) -> None:
        self._roots = roots
        self._idle_s = idle_s
        self._limits = limits or BuildLimits()
        self._is_warm = False
        self._turn = asyncio.Lock()
        self._process = Linked("modelkeep_convert")
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id of the helper; 0 if none is running."""
        return self._process.pid

    async def warm(self) -> None:
        """Start the process and let it import its libraries, so that the first build need not wait."""
        async with self._turn:
            with contextlib.suppress(_HelperDied, _Overrun):
                await self._ask(None, [], lambda stage, done, private_bytes=0: None)
            self._rest()

    async def build(self, plan: Plan, progress: BuildProgress) -> Built:
        """See :class:`modelkeep_loader.domain.components.Builder`."""
        if plan.kind is Kind.OBJECT:
            progress(Stage.READING, 0)
            return await asyncio.to_thread(self._pack, plan)
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return await self._build(plan, progress)
            finally:
                self._rest()

    async def gather(self, plan: Plan, progress: BuildProgress) -> Gathered | None:
        """Find out where a component's bytes lie in its files; None if too many do not as they are lent.

        Raises:
            ModelkeepError: As :meth:`build`.
        """
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return await self._gather(plan, progress)
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
        stop = threading.Event()
        verifying = asyncio.create_task(asyncio.to_thread(verify, plan, descriptors, stop.is_set))
        try:
            answer, memory = await self._answer("build", plan, descriptors, progress)
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    await asyncio.shield(verifying)  # its thread reads the descriptors, whoever waits for it
            except BaseException:
                _close_all(memory)
                raise
            _refuse_error(plan, answer)  # only now: of a file that was changed, something else is true
            return await asyncio.to_thread(_accept, memory, plan, descriptors)
        except TimeoutError:
            raise _too_long(plan, self._limits.timeout_s) from None
        finally:
            # A read that hangs does not stop, and must not keep the next build waiting.
            stop.set()
            await asyncio.wait({verifying}, timeout=LET_GO_S)
            verifying.add_done_callback(partial(_read_to_the_end, descriptors))

    async def _gather(self, plan: Plan, progress: BuildProgress) -> Gathered | None:
        progress(Stage.READING, 0)
        files = await asyncio.to_thread(self._open, plan)
        made: list[int] = []
        try:
            answer, made = await self._answer("gather", plan, files, progress)
            await asyncio.to_thread(_check_unchanged, plan, files)
            _refuse_error(plan, answer)
            if answer["gathered"] is None:
                _close_all(files)
                return None
            if len(made) < 2:  # the kernel drops those for which there is no number left
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            (head, rest), found = made, answer["gathered"]
            return Gathered(head, rest, files, found["size_bytes"], found["segments"])
        except BaseException:
            _close_all([*files, *made])
            raise

    async def _answer(
        self, what: str, plan: Plan, descriptors: Sequence[int], progress: BuildProgress
    ) -> tuple[dict[str, Any], list[int]]:
        """What the process says that was asked for a component, and the descriptors that come with it.

        Raises:
            ModelkeepError: The process has ended.
        """
        try:
            return await self._ask((what, plan), descriptors, progress)
        except _HelperDied as died:
            raise _explain(plan, died.returncode) from None
        except _Overrun as overrun:
            raise overrun.error from None

    def _pack(self, plan: Plan) -> Built:
        """What needs no library, and so not the process."""
        descriptors = self._open(plan)
        try:
            return _accept([pack(plan, descriptors)], plan, descriptors)
        finally:
            _close_all(descriptors)

    def _open(self, plan: Plan) -> list[int]:
        opened: list[int] = []
        try:
            for file in plan.files:
                opened.append(self._roots.open_beneath(file.path, os.O_RDONLY | os.O_NONBLOCK))
            _check_unchanged(plan, opened)
        except FileNotFoundError:
            _close_all(opened)
            raise ModelNotFoundException(
                f"{plan.files[len(opened)].name} of {plan.model.name!r} went away while it was loaded.",
                metadata={"key": plan.ref.key, "path": str(plan.model.location)},
            ) from None
        except OSError as error:
            _close_all(opened)
            raise unreadable(plan.model.name, plan.model.location, error) from None
        except BaseException:
            _close_all(opened)
            raise
        return opened

    async def _ask(
        self, wanted: tuple[str, Plan] | None, descriptors: Sequence[int], progress: BuildProgress
    ) -> tuple[dict[str, Any], list[int]]:
        """Have something done for a component; None: only have the libraries imported."""
        loop = asyncio.get_running_loop()

        def report(done: int, private_bytes: int) -> None:
            stage = Stage.CONVERTING if done else Stage.READING
            loop.call_soon_threadsafe(progress, stage, done, private_bytes)

        def exchange() -> tuple[dict[str, Any], list[int]]:
            link = self._start()
            warmed: tuple[dict[str, Any], list[int]] = {}, []
            if not self._is_warm:
                # By itself, so that what the libraries take is not reckoned to a build.
                warmed = self._converse(link, {"warm": True}, [], report, None)
                self._is_warm = True
            if wanted is None:
                return warmed
            what, plan = wanted
            return self._converse(link, {what: asdict(_request(plan))}, descriptors, report, plan)

        work = asyncio.ensure_future(asyncio.to_thread(exchange))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Only a shutdown cancels a build; ending the process frees the thread.
            self._process.kill()
            with contextlib.suppress(Exception):
                _, memory = await work
                _close_all(memory)
            raise

    # The process. These block: called from threads.

    def _converse(
        self,
        link: socket.socket,
        request: dict[str, Any],
        descriptors: Sequence[int],
        report: Callable[[int, int], None],
        plan: Plan | None,
    ) -> tuple[dict[str, Any], list[int]]:
        """Ask, and wait for the answer for as long as the process stays within its limits."""
        pid = self._process.pid
        poll = select.poll()
        poll.register(link, select.POLLIN)
        limit_s = self._limits.timeout_s if plan is not None else _START_S
        deadline, before = time.monotonic() + limit_s, _own_memory(pid)
        done, told = 0, 0
        try:
            link.settimeout(limit_s)
            frames.send_frame(link, request, descriptors)
            while True:
                if plan is not None:
                    taken = _own_memory(pid) - before
                    if taken > self._limits.memory_for(plan):
                        raise _Overrun(_too_large(plan, self._limits.memory_for(plan)))
                    if (private := max(0, taken - _LIBRARY_BYTES)) > told:
                        told = private
                        report(done, private)
                if time.monotonic() > deadline:
                    raise _Overrun(_too_long(plan, limit_s))
                if not poll.poll(_LOOK_MS):
                    continue
                if (frame := frames.receive_frame(link)) is None:
                    break
                if "progress" not in frame[0]:
                    return frame
                done = frame[0]["progress"]
                report(done, told)
        except _Overrun as overrun:
            _log.warning("the helper process is ended: %s", overrun)
            self._stop()
            raise
        except OSError as error:
            _log.warning("the helper process does not answer: %s", error)
        raise _HelperDied(self._stop())

    def _start(self) -> socket.socket:
        if not self._process.pid:
            self._is_warm = False
        return self._process.start()

    def _stop(self) -> int:
        self._is_warm = False
        return self._process.stop()

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


def _request(plan: Plan) -> Build:
    """What the process is told of a component."""
    return Build(
        library=plan.library,
        class_name=plan.class_name,
        config=None if plan.config is None else dict(plan.config),
        precision=plan.precision,
        files=[file.name for file in plan.files],
        base=plan.model.base,
        scaling_factor=plan.scaling_factor,
        overrides=dict(plan.overrides),
        name=f"modelkeep:{plan.id[:12]}:{plan.class_name or plan.kind}",
        kind=plan.kind,
        cast=plan.cast,
        weights=plan.weights,
        layout=plan.part.layout if plan.part is not None else "",
        prefix=plan.part.prefix if plan.part is not None else "",
        memory_format=plan.memory_format,
    )


def _refuse_error(plan: Plan, answer: Mapping[str, Any]) -> None:
    """Raise what an answer of the process says that is wrong with a component."""
    if (error := answer.get("error")) is not None:
        cls = BY_REASON.get(error["reason"], InvalidModelException)
        raise cls(error["message"], metadata={"path": str(plan.model.location), **error["metadata"]})


def _close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _read_to_the_end(descriptors: Sequence[int], reading: asyncio.Task[None]) -> None:
    """Let go of files once nobody reads them any more."""
    if not reading.cancelled():
        reading.exception()  # whoever waited for it has heard of it
    _close_all(descriptors)


def _check_unchanged(plan: Plan, sources: Sequence[int]) -> None:
    for file, fd in zip(plan.files, sources, strict=True):
        refuse_changed(file, fd)


def _accept(descriptors: Sequence[int], plan: Plan, sources: Sequence[int]) -> Built:
    """Take over what was made of files, if they are still the ones of the plan."""
    if not descriptors:  # the kernel drops those for which there is no number left
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    try:
        _check_unchanged(plan, sources)
        return take_memory(descriptors[0])
    finally:
        _close_all(descriptors)


def _own_memory(pid: int) -> int:
    """Bytes of memory that a process takes: what is its own, and shared memory that it has mapped, such as a
    component that it makes another from; no files. 0 if it has ended.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    named = (line.partition(":") for line in lines)
    counted = [value for name, _, value in named if name in ("RssAnon", "RssShmem", "VmSwap")]
    return sum(int(value.split()[0]) * 1024 for value in counted)


def _too_large(plan: Plan, limit: int) -> RamExhaustedException:
    return RamExhaustedException(
        f"Building {plan.class_name} took more than {limit:,} bytes besides the component, so it was ended: "
        "its configuration and its files may not belong together.",
        metadata={"budget_bytes": str(limit), "holders": "", "setting": "build_memory_bytes"},
        retry_after=5.0,
        remedy="Fetch the model anew, or raise build_memory_bytes of LoaderService if it needs so much.",
    )


def _too_long(plan: Plan | None, limit_s: float) -> ModelkeepError:
    if plan is None:
        return ModelkeepError(
            f"The helper process did not start within {limit_s:g} s.",
            remedy="Look at LoaderService's log, and try again when the host has less to do.",
        )
    return InvalidModelException(
        f"Building {plan.class_name} did not end within {limit_s:g} s, and was ended: the disk may be slow, "
        "or the files not be what they seem.",
        metadata={
            "path": str(plan.model.location),
            "detail": f"no end within {limit_s:g} s",
            "setting": "build_timeout_s",
        },
        remedy="Look whether the disk is well, or raise build_timeout_s of LoaderService if it needs longer.",
    )


def _explain(plan: Plan, returncode: int) -> ModelkeepError:
    if returncode == -signal.SIGKILL:
        return RamExhaustedException(
            f"The helper process was killed while it built {plan.class_name}, most likely because the "
            "host or the container ran out of memory.",
            metadata={"holders": ""},
            retry_after=5.0,
            remedy="Lower ram_budget_bytes of LoaderService, or give the host or the container more memory.",
        )
    how = signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
    return InvalidModelException(
        f"The helper process broke down ({how}) while it built {plan.class_name} from the model's files.",
        metadata={"path": str(plan.model.location), "detail": f"helper: {how}"},
        remedy="Fetch the model anew; if that does not help, LoaderService's log says where it broke down.",
    )
