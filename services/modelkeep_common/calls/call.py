"""The call that is being served: who asks, what, under which id, until when, and how it ended."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass

from ..auth.principal import NOBODY, Principal

_DEFAULT_WAIT_S, _MAX_WAIT_S = 30.0, 60.0


@dataclass(slots=True)
class Call:
    """What is known of a call; each step adds what it finds out.

    It outlives the call in the tasks that its handler has begun, so it holds neither request nor gRPC's
    context.
    """

    #: Names the call in logs and in INTERNAL errors; from ``x-request-id`` or made here.
    request_id: str = ""
    #: Full method name, as ``modelkeep.record.v1.RecordService/GetModel``.
    method: str = ""
    #: ``time.monotonic()`` at which the caller stops waiting; None if it never does.
    deadline: float | None = None
    #: Where it comes from, as gRPC says it: ``ipv4:127.0.0.1:5000``.
    peer: str = ""
    #: The authenticated caller.
    principal: Principal = NOBODY
    #: ``time.perf_counter()`` at the begin.
    started: float = 0.0
    #: Its status, and the reason of a failure.
    code: str = "OK"
    reason: str = ""
    #: Of a request that does not stream in, and of what was sent.
    bytes_in: int = 0
    bytes_out: int = 0
    #: Of a stream: how many messages were sent, and how many calls of its class are under way.
    messages: int = 0
    open_streams: int = 0

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def patience(self, asked_s: float | None) -> float:
        """Seconds that a Wait call may wait: as asked, 30 if nothing is, 60 at most.

        The answer leaves before the caller stops waiting for it.
        """
        wait = _DEFAULT_WAIT_S if asked_s is None else min(max(0.0, asked_s), _MAX_WAIT_S)
        left = self.time_remaining()
        return wait if left is None else min(wait, max(0.0, left - min(0.5, left / 4)))


NO_CALL = Call()
CURRENT: ContextVar[Call] = ContextVar("modelkeep_call", default=NO_CALL)


def current_call() -> Call:
    """The call whose handler is running in this task; an empty one outside of calls.

    It follows a unit of work to the database's writer thread, but not to a reader.
    """
    return CURRENT.get()
