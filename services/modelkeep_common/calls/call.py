"""The call that is being served: who asks, what, under which id, until when."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import NamedTuple

from ..auth import NOBODY, Principal


class CallInfo(NamedTuple):
    """What is known of a call before its handler runs."""

    #: Names the call in logs and in INTERNAL errors; from ``x-request-id`` or made here.
    request_id: str = ""
    #: The authenticated caller.
    principal: Principal = NOBODY
    #: Full method name, as ``modelkeep.record.v1.RecordService/GetModel``.
    method: str = ""
    #: ``time.monotonic()`` at which the caller stops waiting; None if it never does.
    deadline: float | None = None

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


NO_CALL = CallInfo()
CURRENT: ContextVar[CallInfo] = ContextVar("modelkeep_call", default=NO_CALL)


def current_call() -> CallInfo:
    """The call whose handler is running in this task; an empty one outside of calls.

    It follows a unit of work to the database's writer thread, but not to a reader.
    """
    return CURRENT.get()
