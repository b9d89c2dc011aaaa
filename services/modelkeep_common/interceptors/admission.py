"""How many calls may run at once. Nobody queues: a queue would only hide that the server is full."""

from __future__ import annotations

from modelkeep.exceptions import ServerBusyException

_RETRY_S = 0.5


class Gate:
    """Counts the calls of one class."""

    __slots__ = ("active", "kind", "limit")

    def __init__(self, kind: str, limit: int | None) -> None:
        self.kind = kind
        self.limit = limit
        self.active = 0

    def enter(self) -> None:
        """Count a call in; :meth:`leave` counts it out.

        Raises:
            ServerBusyException: There are as many as allowed.
        """
        if self.limit is not None and self.active >= self.limit:
            raise ServerBusyException(
                f"The server has {self.limit} {self.kind} calls under way, as many as it takes: try again.",
                metadata={"class": self.kind, "limit": str(self.limit)},
                retry_after=_RETRY_S,
            )
        self.active += 1

    def leave(self) -> None:
        """Count a call out."""
        self.active -= 1


class Admission:
    """The gates of a server.

    Args:
        max_unary: Reads at once, and writes at once.
        max_streams: Server streams and long polls (``Wait…``) at once.
    """

    def __init__(self, max_unary: int, max_streams: int) -> None:
        self.read = Gate("read", max_unary)
        self.write = Gate("write", max_unary)
        self.stream = Gate("stream", max_streams)
        #: For health and reflection.
        self.exempt = Gate("exempt", None)
