"""What a redeemed ticket gives: the memory of a lease, for as long as the connection lasts."""

from __future__ import annotations

import asyncio
import os

from modelkeep_loader.domain.lease import Lease
from modelkeep_loader.domain.leases import LeaseTable


class HeldConnection:
    """A connection of the descriptor socket, as a binding of its lease."""

    def __init__(self, leases: LeaseTable, lease: Lease, number: int) -> None:
        self._leases = leases
        self._lease = lease
        self._number = number

    def descriptors(self) -> list[int]:
        """New descriptors for reading: of the components' files in their order, then, in the same order, of
        the allocations of those that are on accelerators. The caller closes them.
        """
        opened: list[int] = []
        try:
            for resident in self._lease.residents:
                assert resident.built is not None, "a lease is granted on residents only"
                opened.append(resident.built.memory.open_for_holder())
            for resident in self._lease.residents:
                if (memory := resident.on_device) is not None:
                    opened.append(memory.open_on_device())
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return opened

    @property
    def ended(self) -> asyncio.Event:
        """Set when the lease has ended."""
        return self._lease.ended

    def closed(self) -> None:
        """The connection is gone."""
        self._leases.unbind(self._lease, self._number)
