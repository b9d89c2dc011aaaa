"""One process for accelerators, and how it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelkeep import frames
from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError
from modelkeep_devices import wire

from .linked import Linked

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the processes may take.

    Attributes:
        answer_s: Seconds between two signs of life: progress, or an answer.
        start_s: Seconds until the first answer of a process, which has to start and find its driver.
        idle_s: Seconds without work after which a copier is ended; its context takes memory of the device.
    """

    answer_s: float = 30.0
    start_s: float = 120.0
    idle_s: float = 300.0


class DeviceProcess:
    """A process of :mod:`modelkeep_devices`: started at a request, and anew at the next after its death.

    Args:
        patience: How long it may take.
        role: "owner" or "copier".
        arguments: More of its command line.
    """

    def __init__(self, patience: Patience, role: str, *arguments: str) -> None:
        self._patience = patience
        self._role = role
        self._process = Linked("modelkeep_devices", role, *arguments)
        self._turn = asyncio.Lock()
        #: Held by the thread that talks to it, also when nobody waits for that thread any more.
        self._talk = threading.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 if none is running."""
        return self._process.pid

    async def ask(
        self,
        request: dict[str, Any],
        descriptors: Sequence[int] = (),
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[dict[str, Any], list[int]]:
        """Have a request done, when it is its turn.

        Args:
            request: See :mod:`modelkeep_devices.wire`.
            descriptors: What goes with it; they stay the caller's.
            on_progress: Told on the event loop of bytes that are done.

        Returns:
            What the answer says, and descriptors that came with it, which are the caller's.

        Raises:
            DeviceFailedError: It died or did not answer; or what it says itself.
        """
        loop = asyncio.get_running_loop()

        def report(done: int) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, done)

        async with self._turn:
            self._stay()
            own = [os.dup(descriptor) for descriptor in descriptors]  # a caller that gives up closes its own
            given_up = threading.Event()
            work = asyncio.ensure_future(asyncio.to_thread(self._exchange, request, own, report, given_up))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                if self._role == "copier":
                    given_up.set()
                    self._process.kill()  # what is half filled is of no use, and the thread is free
                with contextlib.suppress(Exception):
                    _, made = await work
                    _close_all(made)
                raise
            finally:
                self._rest()

    async def forget(self, keep: str) -> None:
        """Have it let go of host memory that it keeps under a name; a process that cannot is ended."""
        if not self.pid:
            return
        try:
            await self.ask({"do": "forget", "keep": keep})
        except (DeviceFailedError, DeviceGoneError) as error:
            _log.warning("the %s is ended: %s", self._role, error)
            await self._end()

    async def close(self) -> None:
        """End it, whatever it does."""
        self._stay()
        self._process.kill()
        await self._end()

    # The conversation. These block: called from threads.

    def _exchange(
        self,
        request: dict[str, Any],
        descriptors: list[int],
        report: Callable[[int], None],
        given_up: threading.Event,
    ) -> tuple[dict[str, Any], list[int]]:
        try:
            with self._talk:
                return self._converse(request, descriptors, report, given_up)
        finally:
            _close_all(descriptors)

    def _converse(
        self,
        request: dict[str, Any],
        descriptors: Sequence[int],
        report: Callable[[int], None],
        given_up: threading.Event,
    ) -> tuple[dict[str, Any], list[int]]:
        wait_s = self._patience.answer_s if self.pid else self._patience.start_s
        why = "ended"
        try:
            link = self._process.start()
            if given_up.is_set():  # before there was a process to kill
                self._process.kill()
            link.settimeout(wait_s)
            frames.send_frame(link, request, descriptors)
            while (frame := frames.receive_frame(link)) is not None:
                link.settimeout(wait_s := self._patience.answer_s)
                answer, made = frame
                if "progress" in answer:
                    report(answer["progress"])
                elif "failed" in answer:
                    raise wire.failure(answer)
                else:
                    return answer["done"], made
        except DeviceFailedError:
            self._process.stop()  # it is about to end, since what is wrong with it may stay so
            raise
        except TimeoutError:
            why = f"did not answer for {wait_s:g} s"
        except OSError as error:
            why = f"cannot be talked to ({error})"
        code = self._process.stop()
        if why == "ended":
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            why = f"ended {how}"
        _log.warning("the process that is the accelerators' %s %s", self._role, why)
        raise DeviceFailedError(f"The process that is the accelerators' {self._role} {why}; try again.")

    # Its end.

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _rest(self) -> None:
        self._stay()
        if self._role == "copier" and self.pid:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._patience.idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self._idle = None
        self._ending = asyncio.get_running_loop().create_task(self._end(idle=True), name="end idle copier")

    async def _end(self, *, idle: bool = False) -> None:
        # In its turn: what begins in this very moment must not have its process ended.
        async with self._turn:
            if not (idle and self._idle is not None):
                await asyncio.to_thread(self._process.stop)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
