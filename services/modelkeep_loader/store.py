"""The history of residents, for lists and watches: in memory, as the residents are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from modelkeep.loader.v1 import resident_pb2
from modelkeep_common.limits import StoreLimits
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.memory_log import Kept, MemoryLog

COLLECTION = "residents"
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


async def read_residents(
    resources: Mapping[str, Kept],
) -> AsyncIterator[tuple[str, resident_pb2.Resident]]:
    """Every resident of the history."""
    for resident_id, kept in sorted(resources.items()):
        yield resident_id, resident_pb2.Resident.FromString(kept.payload)
