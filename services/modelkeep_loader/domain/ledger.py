"""The ledger: tells the keeper of residents, leases and pins when what is written of them is no more true.

A grant waits for this, so what has not changed is not written again: neither a use of a resident nor a second
connection of the same process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence

from modelkeep_loader.domain.components import ComponentRef, Memory, Resident, SourceFile, Stage
from modelkeep_loader.domain.digests import Known
from modelkeep_loader.domain.keeping import Keeper
from modelkeep_loader.domain.kept import KeptLease, KeptPins, KeptResident, KeptZombie
from modelkeep_loader.domain.lease import Lease, LeaseChange, LeaseState

_log = logging.getLogger(__name__)


class Ledger:
    """Writes down what the next loader has to know. Belongs to one event loop; nothing in it blocks.

    Args:
        keeper: Keeps it.
        mark_of: Tells a process that lives from a later one with the same number; "" if there is none.
        known: The digests of a file, if it has been read for them.
    """

    def __init__(
        self, keeper: Keeper, mark_of: Callable[[int], str], known: Callable[[SourceFile], Known | None]
    ) -> None:
        self._keeper = keeper
        self._mark_of = mark_of
        self._known = known
        #: What was written last, by name: as much of it as tells whether it is something else by now.
        self._written: dict[str, object] = {}

    def resident(self, resident: Resident, gone: bool) -> None:
        """Something happened to a resident."""
        name = KeptResident.name_of(resident.id)
        if gone or resident.stage is not Stage.RESIDENT or resident.built is None:
            self._drop(name)
            return
        # Its last use is of interest where it decides how long it stays.
        is_timed = resident.keep_alive_s is not None and not resident.wanted
        state = (
            tuple(resident.refs.items()),
            frozenset(resident.removed),
            resident.keep_alive_s,
            resident.last_use if is_timed else None,
        )
        if self._is_new(name, state):
            kept = KeptResident.of(resident, [self._known(file) for file in resident.plan.files])
            self._put(name, kept.write, resident.built.memory.descriptors)

    def zombie(self, memory: Memory, gone: bool) -> None:
        """Memory was dropped and is still mapped, or nobody maps it any more."""
        if not memory.descriptors:
            return  # it stays by itself
        kept = KeptZombie(inode=os.fstat(memory.descriptors[0]).st_ino)
        if gone:
            self._keeper.drop(kept.name_of(kept.id))
        else:
            self._keeper.put(kept.name_of(kept.id), kept.write(), memory.descriptors)

    def lease(self, lease: Lease) -> None:
        """Something happened to a lease."""
        name = KeptLease.name_of(lease.id)
        if lease.state is LeaseState.ENDED:
            self._drop(name)
            return
        if lease.last_change is LeaseChange.GRANTED:
            return  # its first binding follows at once, before anybody hears of it
        state = (
            frozenset(lease.pids),
            frozenset(lease.dead),
            lease.claimed_pid,
            lease.expires_at,
            lease.is_held,
            lease.demoted,
            lease.revocation,
        )
        if self._is_new(name, state):
            alive = {lease.claimed_pid, *lease.pids} - lease.dead - {0}
            marks = {pid: self._mark_of(pid) for pid in alive}
            self._put(name, KeptLease.of(lease, marks).write)

    def pins(self, device: str, ids: Mapping[ComponentRef, str]) -> None:
        """Something else is pinned on a device, or in RAM."""
        name = KeptPins.name_of(device)
        if self._is_new(name, dict(ids)):
            self._put(name, KeptPins.of(device, ids).write)

    def _is_new(self, name: str, state: object) -> bool:
        if name in self._written and self._written[name] == state:
            return False
        self._written[name] = state
        return True

    def _put(self, name: str, write: Callable[[], bytes], descriptors: Sequence[int] = ()) -> None:
        try:
            facts = write()
        except ValueError as error:
            _log.warning("%s is not kept for the next loader: %s", name, error)
            self._keeper.drop(name)
            return
        self._keeper.put(name, facts, descriptors)

    def _drop(self, name: str) -> None:
        if self._written.pop(name, None) is not None:
            self._keeper.drop(name)
