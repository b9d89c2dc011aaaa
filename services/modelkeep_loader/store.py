"""The history of residents and the journal of leases, for lists and watches: in memory, as both are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from modelkeep.loader.v1 import resident_pb2
from modelkeep_common.limits import StoreLimits
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.memory_log import Kept, MemoryLog

COLLECTION = "residents"
LEASES = "leases"
#: What comes in a burst is noted at once: leases come and go in milliseconds.
_BURST_S = 0.02


@dataclass(slots=True)
class _Change:
    """What a resident became.

    ``message``: what it was like when it came into the state that it is in; None if it was in that before.
    ``make``: says what it is like by now, where leases have changed since; None where nothing has.
    """

    id: str
    state: object
    message: resident_pb2.Resident | None
    make: Callable[[], resident_pb2.Resident] | None


class ResidentHistory:
    """Notes the changes of residents, and serves their watch."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self._log = MemoryLog(COLLECTION, limits)
        self.hub = WatchHub[resident_pb2.Resident](self._log, parse=resident_pb2.Resident.FromString)
        self._changes: list[_Change] = []
        self._states: dict[str, object] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def store_id(self) -> str:
        """Id of this history; another one after each start."""
        return self._log.store_id

    def changed(self, resident_id: str, state: object, make: Callable[[], resident_pb2.Resident]) -> None:
        """A resident is now so. Every change of its state is noted; of changes of leases alone that come
        quickly only the last, and what it is like then is found out with the others: a grant waits for this.

        Args:
            resident_id: Its id.
            state: The state that it is in; None: it is gone.
            make: Says what it is like.
        """
        is_new = state is None or self._states.get(resident_id) != state
        place = next((n for n in range(len(self._changes))[::-1] if self._changes[n].id == resident_id), None)
        before = self._changes.pop(place) if place is not None else None
        if state is None:
            self._states.pop(resident_id, None)
        else:
            self._states[resident_id] = state
        if not is_new:
            self._changes.append(_Change(resident_id, state, before.message if before else None, make))
        else:
            if before is not None and (before.state is None or before.message is not None):
                before.make = None  # it is in another state by now
                self._changes.append(before)
            self._changes.append(_Change(resident_id, state, None if state is None else make(), None))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_BURST_S, self.flush)

    def progress(self, message: resident_pb2.Resident) -> None:
        """The loading of a resident went on."""
        if not any(change.id == message.id for change in self._changes):
            self.hub.progress(message.id, message)

    def flush(self) -> str:
        """Note what there is to note.

        Returns:
            A resume token from after that.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        changes, self._changes = self._changes, []
        for change in changes:
            self._note(change.id, change.make() if change.make is not None else change.message)
        return self._log.token()

    def revisions(self) -> dict[str, int]:
        """Residents that have been noted, with the revision of their last change."""
        return {resident_id: kept.revision for resident_id, kept in self._log.resources.items()}

    def _note(self, resident_id: str, message: resident_pb2.Resident | None) -> None:
        if message is not None:
            message.revision = self._log.last_revision + 1
            self._log.append(resident_id, message.SerializeToString())
        elif resident_id in self._log.resources:
            self._log.append(resident_id, None)


class LeaseJournal:
    """Notes what happens to leases, one entry each, and serves their watch. Bounded as every history is."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self._log = MemoryLog(LEASES, limits)
        self.hub = WatchHub[resident_pb2.Lease](self._log, parse=resident_pb2.Lease.FromString)

    def note(self, message: resident_pb2.Lease) -> None:
        """Something has happened to a lease, which is now so; of one that ended nothing follows."""
        message.revision = self._log.last_revision + 1
        self._log.append(message.id, message.SerializeToString())
        if message.state == resident_pb2.LEASE_STATE_ENDED:
            self._log.append(message.id, None)

    def token(self) -> str:
        """A resume token from now on."""
        return self._log.token()

    def revision_of(self, lease_id: str) -> int:
        """That of a lease's last change; 0 once it has ended."""
        kept = self._log.resources.get(lease_id)
        return kept.revision if kept is not None else 0


async def read_leases(resources: Mapping[str, Kept]) -> AsyncIterator[tuple[str, resident_pb2.Lease]]:
    """Every lease of the journal that has not ended."""
    for lease_id, kept in sorted(resources.items()):
        yield lease_id, resident_pb2.Lease.FromString(kept.payload)


async def read_residents(
    resources: Mapping[str, Kept],
) -> AsyncIterator[tuple[str, resident_pb2.Resident]]:
    """Every resident of the history."""
    for resident_id, kept in sorted(resources.items()):
        yield resident_id, resident_pb2.Resident.FromString(kept.payload)
