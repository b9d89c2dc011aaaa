"""What is told when a read that may be dear is not done: too many at once, or too long."""

from __future__ import annotations

from modelkeep.exceptions import DeadlineExceededException, ServerBusyException, ServerDrainingException

_RETRY_S = 0.5


def too_many(kind: str, at_once: int) -> ServerBusyException:
    """As many reads of a kind run and wait as may."""
    return ServerBusyException(
        f"The server has {at_once} {kind} calls under way, as many as it takes: try again.",
        metadata={"class": kind, "limit": str(at_once)},
        retry_after=_RETRY_S,
    )


def too_long(kind: str, limit_s: float, remedy: str) -> DeadlineExceededException:
    """A read was ended since its time is over."""
    return DeadlineExceededException(
        f"The {kind} took longer than {limit_s:g} s: {remedy}.", metadata={"remedy": remedy}
    )


def closed() -> ServerDrainingException:
    """The store is closed."""
    return ServerDrainingException("The store is closed: the server is shutting down.")
