"""Tickets: what a client hands in at the descriptor socket to get the memory of its lease."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final

from modelkeep.exceptions import ForbiddenTicketException

#: Bytes of a ticket and of a lease's secret.
SECRET_BYTES: Final = 32
#: Tickets of one lease that are good at the same time.
_TICKETS: Final = 4


class TicketBook:
    """One-time tickets for the descriptor socket.

    Args:
        valid_s: Seconds that a ticket is good for.
        clock: Monotonic seconds.
    """

    def __init__(self, *, valid_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._valid = valid_s
        self._clock = clock
        self._tickets: dict[bytes, tuple[float, str]] = {}
        self._of: dict[str, list[bytes]] = {}

    def issue(self, lease_id: str) -> bytes:
        """A new ticket for a lease; of its earlier ones only the last few stay good."""
        ticket = secrets.token_bytes(SECRET_BYTES)
        mark = hashlib.sha256(ticket).digest()
        mine = self._of.setdefault(lease_id, [])
        for old in mine[: 1 - _TICKETS]:
            self._tickets.pop(old, None)
        self._of[lease_id] = [*mine[1 - _TICKETS :], mark]
        self._tickets[mark] = (self._clock() + self._valid, lease_id)
        return ticket

    def forget(self, lease_id: str) -> None:
        """Nothing that was issued for a lease is good any more."""
        for mark in self._of.pop(lease_id, []):
            self._tickets.pop(mark, None)

    def redeem(self, ticket: bytes) -> str:
        """The lease that a ticket is for; the ticket is then used up.

        Raises:
            ForbiddenTicketException: Wrong, used, or too old.
        """
        until, lease_id = self._tickets.pop(hashlib.sha256(ticket).digest(), (0.0, ""))
        if not lease_id or until <= self._clock():
            raise ForbiddenTicketException(
                f"The ticket is wrong, was used before, or is older than {self._valid:g} s.",
                remedy="Ask for a new one: RenewLease, or HoldModel with the lease's id and secret.",
            )
        return lease_id
