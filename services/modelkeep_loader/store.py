"""The history of residents and the journal of leases, for lists and watches: in memory, as both are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from modelkeep.loader.v1 import resident_pb2
from modelkeep_common.limits import StoreLimits
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.memory_log import Kept, MemoryLog

COLLECTION = "residents"
LEASES = "leases"
#: What comes in a burst is noted at once: leases come and go in milliseconds.
_BURST_S = 0.02


class _Change(NamedTuple):
    """What a resident became; no message: it is gone."""

    id: str
    message: resident_pb2.Resident | None

    def is_outdone_by(self, later: _Change) -> bool:
        """Whether the later change of the same resident leaves its state as it was."""
        if self.message is None or later.message is None:
            return False
        return self.id == later.id and self.message.state == later.message.state


class ResidentHistory:
    """Notes the changes of residents, and serves their watch."""

    def __init__(self, limits: StoreLimits | None = None) -> None:
        self._log = MemoryLog(COLLECTION, limits)
        self.hub = WatchHub[resident_pb2.Resident](self._log, parse=resident_pb2.Resident.FromString)
        self._changes: list[_Change] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def store_id(self) -> str:
        """Id of this history; another one after each start."""
        return self._log.store_id

    def changed(self, resident_id: str, message: resident_pb2.Resident | None) -> None:
        """A resident is now so; None: it is gone. Every change of its state is noted; of changes of
        leases alone that come quickly only the last.
        """
        change = _Change(resident_id, message)
        if self._changes and self._changes[-1].is_outdone_by(change):
            self._changes.pop()
        self._changes.append(change)
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
        for resident_id, message in changes:
            self._note(resident_id, message)
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
