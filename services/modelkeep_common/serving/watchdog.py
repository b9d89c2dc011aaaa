"""Ends a process that stopped answering, so that whoever started it can act.

Two ways in which one hangs, and two dogs: the event loop does not turn any more (:class:`LoopWatchdog`), or
it turns and the drain does not come to its end (:class:`DrainWatchdog`). Both say where every thread is.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading

from modelkeep.defaults import EXIT_HUNG

from ..startup import tell

_BEAT_S = 1.0


class LoopWatchdog:
    """Ends the process with exit code 1 and tracebacks on standard error when the loop stands still.

    It counts in a thread that does not need the interpreter: also a C function that never gives the
    interpreter back, as a parser on a huge text, is seen. The time in which a process is stopped (SIGSTOP, a
    paused container) counts too.

    Args:
        limit_s: Seconds that the loop may stand still; 0 is no watchdog.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; on the event loop that is watched."""
        if self._limit_s > 0:
            self._beat(asyncio.get_running_loop())

    def stop(self) -> None:
        """End. What takes the loop's time after this is nobody's business."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            faulthandler.cancel_dump_traceback_later()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        faulthandler.dump_traceback_later(self._limit_s, exit=True)
        self._timer = loop.call_later(min(_BEAT_S, self._limit_s / 4), self._beat, loop)


class DrainWatchdog:
    """Ends the process with exit code 70 when :meth:`stop` is not called in time.

    Args:
        service: Short name, for what it says.
        limit_s: Seconds that the drain may take.
    """

    def __init__(self, service: str, limit_s: float) -> None:
        self._service = service
        self._timer = threading.Timer(limit_s, self._give_up)
        self._timer.daemon = True

    def start(self) -> None:
        """Begin."""
        self._timer.start()

    def stop(self) -> None:
        """The drain has come to its end."""
        self._timer.cancel()

    def _give_up(self) -> None:
        tell(self._service, "the drain hangs; giving up")
        faulthandler.dump_traceback()
        os._exit(EXIT_HUNG)
