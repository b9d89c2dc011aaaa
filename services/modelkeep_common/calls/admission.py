"""How many calls may run at once. Nobody queues: a queue would only hide that the server is full.

Each class of calls has a gate of its own, so that no class takes the room of another. A gate counts in all
and by principal, and one principal never gets all of it: what one caller holds leaves room for others.
"""

from __future__ import annotations

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from modelkeep.exceptions import ServerBusyException

from ..settings import ServiceSettings

_RETRY_S = 0.5


class Gate:
    """Counts the calls of one class.

    Args:
        kind: What they are called in an error.
        limit: Calls at once, of everybody.
        share: The part of them that one principal may have.
    """

    __slots__ = ("_of", "active", "kind", "limit", "limit_of_one")

    def __init__(self, kind: str, limit: int, share: float) -> None:
        self.kind = kind
        self.limit = limit
        self.limit_of_one = max(1, int(limit * share))
        #: Calls under way, of everybody.
        self.active = 0
        self._of: dict[str, int] = {}

    def enter(self, principal: str) -> None:
        """Count a call of a principal in; :meth:`leave` counts it out.

        Raises:
            ServerBusyException: There are as many as allowed.
        """
        mine = self._of.get(principal, 0)
        if self.active >= self.limit or mine >= self.limit_of_one:
            raise self._full(principal, mine)
        self._of[principal] = mine + 1
        self.active += 1

    def leave(self, principal: str) -> None:
        """Count a call out."""
        self.active -= 1
        mine = self._of[principal] - 1
        if mine:
            self._of[principal] = mine
        else:
            del self._of[principal]

    def _full(self, principal: str, mine: int) -> ServerBusyException:
        if mine >= self.limit_of_one:
            limit, who = self.limit_of_one, f"{principal or 'callers without a name'} may have"
        else:
            limit, who = self.limit, "the server takes"
        return ServerBusyException(
            f"{limit} {self.kind} calls are under way, as many as {who}: try again.",
            metadata={"class": self.kind, "limit": str(limit)},
            retry_after=_RETRY_S,
        )


class Admission:
    """The gates of a server, with the bounds that its settings name."""

    def __init__(self, settings: ServiceSettings) -> None:
        share = settings.principal_share
        self.read = Gate("read", settings.max_reads, share)
        self.write = Gate("write", settings.max_writes, share)
        #: Streams and long polls that only look; reflection and the health service's too.
        self.watch = Gate("watch", settings.max_watches, share)
        #: Streams that keep something for the caller, as a lease.
        self.hold = Gate("hold", settings.max_holds, share)
        #: Questions about the health: their callers are not told apart.
        self.health = Gate("health", settings.max_health, 1)

    def gate_of(self, name: str, descriptor: MethodDescriptor | None, *, streams: bool) -> Gate:
        """The gate of a method.

        Args:
            name: Its full name, ``package.Service/Method``.
            descriptor: What its .proto says, if that is known.
            streams: Whether request or response are streams.
        """
        service, _, method = name.partition("/")
        if service.startswith("grpc."):
            return self.watch if streams else self.health
        level = MethodOptions.IDEMPOTENCY_UNKNOWN
        if descriptor is not None:
            level = descriptor.GetOptions().idempotency_level
        looks = level == MethodOptions.NO_SIDE_EFFECTS
        if method.startswith(("Watch", "Wait")) or (streams and looks):
            return self.watch
        if streams:
            return self.hold
        return self.read if looks else self.write

    def limits(self) -> dict[str, int]:
        """What GetServerInfo tells of them."""
        limits = {"max_health": self.health.limit}
        for name, gate in (
            *(("max_reads", self.read), ("max_writes", self.write)),
            *(("max_watches", self.watch), ("max_holds", self.hold)),
        ):
            limits |= {name: gate.limit, f"{name}_per_principal": gate.limit_of_one}
        return limits
