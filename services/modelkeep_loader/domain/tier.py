"""A tier: components by identity within a budget, and which of them go when room is needed.

What the tiers share: disk, RAM, and the memory of an accelerator. A tier knows residents and the memory
behind them (:class:`modelkeep_loader.domain.components.Memory`), and neither builds nor waits: that is
:mod:`modelkeep_loader.domain.cache`, which has one tier.

Rules:

* A component that a lease holds, that a request waits for, or that is pinned is never dropped to make room.
* Memory that some process still maps is not free, whether or not a lease names it. Such a component is
  not dropped to make room, for nothing would be gained; dropped by request, its bytes are *zombie* bytes
  until the last mapping goes, and count against the budget.
* What is reserved (memory of builds, activations of leases) counts against the budget as well.
* What nobody has used for as long as it was to be kept goes first; the policy orders the rest.
* What goes is offered to the tier below before it is dropped.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import ClassVar, Final

from modelkeep_loader.domain.components import Built, ComponentRef, Memory, Plan, Resident, Stage
from modelkeep_loader.domain.demand import Eviction, Room, Usage, build_bytes
from modelkeep_loader.domain.holders import MOST_NAMED, in_use, model_name, pinned_down
from modelkeep_loader.domain.pins import Pins
from modelkeep_loader.domain.policy import GreedyDualSize, Policy, reload_seconds

#: What the memory of builds is reserved as.
BUILDS: Final = "builds"


class TierName(enum.StrEnum):
    """The tiers, the lowest first."""

    DISK = "disk"
    RAM = "ram"
    VRAM = "vram"


def free_in_thread(memory: Memory) -> asyncio.Future[None]:
    """Close memory in a thread: the kernel takes some 45 ms a GB to free it; no grant need wait for that."""
    return asyncio.get_running_loop().run_in_executor(None, memory.close)


class Tier:
    """One tier. Belongs to one event loop; nothing in it blocks.

    Args:
        name: Which one.
        budget_bytes: What residents, builds, zombies and reservations may take together.
        policy: Which residents go first.
        keep_alive_s: Seconds that a component is kept that nobody uses, where its last user did not say;
            below 0: for as long as there is room.
        on_change: Called with a resident whose stage or leases changed, and whether it is gone.
        on_zombie: Called with memory that was dropped and is still mapped, and once more, with True, when
            nobody maps it any more; before it is let go of.
        demote: Called with a resident before it is dropped to make room, while its memory is still there:
            the tier below may take it. Where that has it, or makes it again from what it has, there is
            nothing to do.
        pins: What is pinned here; nothing by default.
        free: Begins to let go of memory, and says when that is done.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.
    """

    #: Whether what is idle goes by itself where more is taken than the budget allows.
    _keeps_to_budget: ClassVar = True

    def __init__(
        self,
        name: TierName,
        *,
        budget_bytes: int,
        policy: Policy | None = None,
        keep_alive_s: float = -1.0,
        on_change: Callable[[Resident, bool], None] = lambda resident, gone: None,
        on_zombie: Callable[[Memory, bool], None] = lambda memory, gone: None,
        demote: Callable[[Resident], None] = lambda resident: None,
        pins: Pins | None = None,
        free: Callable[[Memory], asyncio.Future[None]] = free_in_thread,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.budget_bytes = budget_bytes
        self.on_change = on_change
        self.clock = clock
        self.wall_clock = wall_clock
        self._policy = policy if policy is not None else GreedyDualSize()
        self._keep_alive_s = keep_alive_s
        self._on_zombie = on_zombie
        self._demote = demote
        self._free = free
        self._freeing: set[asyncio.Future[None]] = set()
        self.pins = pins if pins is not None else Pins()
        self._residents: dict[str, Resident] = {}
        self._zombies: list[Memory] = []
        self._reserved: dict[str, int] = {}
        self._high_watermark = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def most_bytes(self) -> int:
        """What the budget may ever be."""
        return self.budget_bytes

    # What there is.

    def residents(self) -> list[Resident]:
        """All of them, ordered by id."""
        return [self._residents[key] for key in sorted(self._residents)]

    def get(self, resident_id: str) -> Resident | None:
        """One of them, also one that failed; None if there is none of that identity."""
        return self._residents.get(resident_id)

    def usage(self) -> Usage:
        """The bytes as they are now, and what was counted since the start."""
        alive = [r for r in self._residents.values() if r.stage is not Stage.FAILED]
        return Usage(
            budget=self.budget_bytes,
            used=sum(r.size_bytes for r in alive),
            leased=sum(r.size_bytes for r in alive if r.leases),
            pinned=sum(r.size_bytes for r in alive if r.pins),
            zombie=sum(memory.size_bytes for memory in self._zombies),
            reserved=sum(self._reserved.values()),
            residents=sum(r.stage is Stage.RESIDENT for r in alive),
            high_watermark=self._high_watermark,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
        )

    def holders(self) -> tuple[list[str], int]:
        """Leases that hold something here: some, by name, and how many there are."""
        found = {lease for r in self._residents.values() for lease in r.leases}
        return heapq.nsmallest(MOST_NAMED, found), len(found)

    def leased_in_order(self) -> list[Resident]:
        """What leases hold and nobody has pinned, in the order in which it would go."""
        held = {r.id: r for r in self._residents.values() if r.leases and not r.pins}
        return [held[name] for name in self._policy.order(held)]

    def known_keys(self) -> set[str]:
        """Keys of the models that residents were asked for by."""
        return {ref.key for resident in self._residents.values() for ref in resident.refs}

    def export(self, resident: Resident) -> int:
        """A new read-only descriptor of a resident's memory; the caller closes it.

        Raises:
            OSError: It cannot be opened.
        """
        assert resident.built is not None, "it is not resident"
        return resident.built.memory.open_for_holder()

    # Room.

    def room_for(self, need: int, keep: Collection[str] = ()) -> Room:
        """What would have to go for so many bytes. Changes nothing.

        Args:
            need: Bytes that are wanted.
            keep: Residents that must stay.
        """
        return self._room(need - self._free_bytes() if need else 0, keep)

    def _room(self, short: int, keep: Collection[str] = ()) -> Room:
        if short <= 0:
            return Room([], 0)
        victims: list[Resident] = []
        for resident in self._in_order_of_going(keep):
            if short <= 0:
                break
            victims.append(resident)
            short -= resident.size_bytes
        return Room(victims, max(0, short))

    def make_room(self, need: int, keep: Collection[str] = ()) -> int:
        """Make so many bytes free, or drop nothing.

        Returns:
            Bytes that are missing; 0: there is room.
        """
        room = self.room_for(need, keep)
        if not room.bytes_short:
            for resident in room.victims:
                self._demote(resident)
                self.drop(resident, made_room=True)
        return room.bytes_short

    def fit(self) -> None:
        """Drop what is idle while more is taken than the budget allows: something grew."""
        for resident in self._room(-self._free_bytes()).victims:
            self._demote(resident)
            self.drop(resident, made_room=True)

    async def freed(self) -> None:
        """Wait until this process has let go of what was dropped, which counts as free before.

        A keeper lets go of it a moment later.
        """
        if self._freeing:
            await asyncio.wait(self._freeing)

    def reserve(self, purpose: str, size_bytes: int) -> None:
        """Count so many bytes as taken for a purpose, instead of what was counted for it; 0 ends it.

        Looks for no room: make it first.
        """
        if size_bytes > 0:
            self._reserved[purpose] = size_bytes
        else:
            self._reserved.pop(purpose, None)
        self._note_watermark()

    def besides(self, plans: Iterable[Plan]) -> int:
        """Bytes that building these takes besides them, and besides what is reserved for builds already."""
        return max(0, build_bytes(plans) - self._reserved.get(BUILDS, 0))

    # Coming and going.

    def place(self, plan: Plan) -> Resident:
        """A component begins to come, for which there is room; it takes the place of one that failed."""
        before = self._residents.get(plan.id)
        resident = Resident(
            plan,
            Stage.QUEUED,
            plan.size_bytes,
            self.clock(),
            failures=before.failures if before is not None else 0,
            tier=self.name,
        )
        self._residents[plan.id] = resident
        self._note_watermark()
        return resident

    def settle(self, resident: Resident, built: Built, load_seconds: float) -> None:
        """A component has come. It may be larger than was planned: see :meth:`fit`."""
        resident.built = built
        resident.size_bytes = resident.bytes_done = built.memory.size_bytes
        resident.load_seconds = load_seconds
        resident.load_time = self.wall_clock()
        resident.error, resident.failures = None, 0
        resident.stage = Stage.RESIDENT
        self._use(resident)
        self._note_watermark()

    def adopt(self, resident: Resident) -> None:
        """A component is there that came to an earlier loader. It may be too much: see :meth:`fit`."""
        self._residents[resident.id] = resident
        resident.pins = self.pins.keys_of(resident.id)
        self._use(resident)
        self._note_watermark()
        self.on_change(resident, False)

    def adopt_zombie(self, memory: Memory) -> None:
        """Memory that an earlier loader had dropped may still be mapped: it counts until nobody does."""
        self._zombies.append(memory)
        self._note_watermark()

    def ask_for(self, resident: Resident, plan: Plan, keep_alive_s: float | None) -> None:
        """Somebody asked for a component by a plan of his, and by what he says it is kept from now on."""
        resident.remember(plan)
        seconds = self._keep_alive_s if keep_alive_s is None else keep_alive_s
        resident.keep_alive_s = seconds if seconds >= 0 else None
        if before := self.pins.follow(plan):
            self._refresh_pins([before])
        resident.pins = self.pins.keys_of(resident.id)
        self.touch(resident)

    def rename(self, resident: Resident, plan: Plan) -> Resident:
        """A component that has come turns out to be what another plan says, and goes on as that.

        Returns:
            It; or the one of that identity which was there, and has its memory and all who hold it now.
        """
        self._residents.pop(resident.id, None)
        self._policy.forget(resident.id)
        self.on_change(resident, True)
        resident.plan = plan
        there = self._residents.get(plan.id)
        if there is None or there.stage is Stage.FAILED:
            self._residents[plan.id] = there = resident
        else:
            there.refs |= {ref: name for ref, name in resident.refs.items() if ref not in there.refs}
            there.loads |= resident.loads
            there.leases |= resident.leases
            if there.stage is Stage.RESIDENT:
                there.built = resident.built
        self._use(there)
        self.on_change(there, False)
        return there

    def touch(self, resident: Resident) -> None:
        """A component is used, or was until now."""
        resident.last_use, resident.use_time = self.clock(), self.wall_clock()
        self._use(resident)

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        """So many components were asked for and there, or not."""
        self._hits += hits
        self._misses += misses

    def drop(self, resident: Resident, *, made_room: bool = False) -> None:
        """Let a component go. What some process maps becomes a zombie."""
        if resident.stage is not Stage.FAILED:
            resident.stage = Stage.EVICTING
        self._residents.pop(resident.id, None)
        self._policy.forget(resident.id, made_room=made_room)
        if resident.built is not None:
            self._evictions += 1
            memory = resident.built.memory
            if memory.in_use():
                self._zombies.append(memory)
                self._on_zombie(memory, False)
            else:
                self._let_go(memory)
        self.on_change(resident, True)

    def drop_orphan(self, resident: Resident) -> None:
        """Let a component go if every model that it was asked for by is no more, and nobody uses it."""
        if resident.is_orphan and not resident.wanted and not resident.is_loading:
            self.drop(resident)

    def drop_expired(self) -> None:
        """Let go what nobody has used for as long as it was to be kept; not yet what is still mapped."""
        now = self.clock()
        for resident in [r for r in self._residents.values() if r.has_expired(now)]:
            if resident.built is not None and not resident.built.memory.in_use():
                self._demote(resident)
                self.drop(resident)

    # Pins.

    def pin(self, plans: Sequence[Plan]) -> list[ComponentRef]:
        """Keep these whatever else needs room, now and once they come.

        Returns:
            The names that were not pinned before.
        """
        new = self.pins.add(plans)
        self._refresh_pins([plan.id for plan in plans])
        return new

    def unpin(self, refs: Iterable[ComponentRef], *, exactly: bool = False) -> list[ComponentRef]:
        """Take back pins.

        Args:
            refs, exactly: See :meth:`modelkeep_loader.domain.pins.Pins.remove`.

        Returns:
            The names that were pinned.
        """
        found = self.pins.remove(list(refs), exactly=exactly)
        self._refresh_pins(self._residents)
        return found

    def _refresh_pins(self, resident_ids: Iterable[str]) -> None:
        for resident in [self._residents[i] for i in resident_ids if i in self._residents]:
            pins = self.pins.keys_of(resident.id)
            if pins != resident.pins:
                resident.pins = pins
                self.on_change(resident, False)

    # Dropping by request.

    def evict(self, key: str, submodel: str = "", *, validate_only: bool = False) -> Eviction:
        """Drop a model's components, or one of them; or only say what that would do.

        A component that only other models' leases or pins hold stays, and no longer counts as this model's.

        Raises:
            ModelInUseException: A lease of this model holds one, or one is being loaded; nothing was
                dropped.
            ModelPinnedException: One is pinned as this model's; nothing was dropped.
        """
        mine = {
            r: {ref for ref in r.refs if ref.key == key and submodel in ("", ref.submodel)}
            for r in self._residents.values()
        }
        mine = {r: refs for r, refs in mine.items() if refs}
        holders = {lease for r in mine for lease, keys in r.leases.items() if key in keys}
        if holders or any(r.loads or r.is_loading for r in mine):
            raise in_use(key, model_name(mine), holders)
        if pinned := [r.display_name for r in mine if key in r.pins]:
            raise pinned_down(key, model_name(mine), sorted(pinned))
        done = self._eviction([r for r in mine if not r.leases and not r.pins])
        if not validate_only:
            for resident, refs in mine.items():
                self._forget(resident, refs)
        return done

    def evict_idle(self, *, validate_only: bool = False) -> Eviction:
        """Drop everything that no lease holds, no request waits for and nobody has pinned; or only say what
        that would do.
        """
        idle = [r for r in self.residents() if r.may_go]
        done = self._eviction(idle)
        if not validate_only:
            for resident in idle:
                self.drop(resident)
        return done

    def model_removed(self, key: str) -> None:
        """A model is no more. What is only its own goes: now, or with the last lease on it."""
        self.unpin([ComponentRef(key)])
        for resident in list(self._residents.values()):
            refs = [ref for ref in resident.refs if ref.key == key]
            if not refs:
                continue
            resident.removed.add(key)
            if not resident.is_orphan and not resident.wanted:
                for ref in refs:
                    del resident.refs[ref]
                resident.removed.discard(key)
            self.on_change(resident, False)
            self.drop_orphan(resident)

    def sweep(self) -> None:
        """Notice memory that nobody maps any more, what was kept for long enough, and what is beyond a budget
        that was larger before: it may have been in use, or leased, when the loader started.
        """
        self.drop_expired()
        still: list[Memory] = []
        for memory in self._zombies:
            if memory.in_use():
                still.append(memory)
            else:
                self._on_zombie(memory, True)
                self._let_go(memory)
        self._zombies = still
        if self._keeps_to_budget:
            self.fit()

    def close(self) -> None:
        """Let go of all memory; mapped memory lives on in its processes."""
        for resident in self._residents.values():
            if resident.built is not None:
                resident.built.memory.close()
        for memory in self._zombies:
            memory.close()
        self._residents.clear()
        self._zombies.clear()
        self._reserved.clear()

    # What else.

    def _let_go(self, memory: Memory) -> None:
        freeing = self._free(memory)
        self._freeing.add(freeing)
        freeing.add_done_callback(self._freeing.discard)

    def _free_bytes(self) -> int:
        usage = self.usage()
        return usage.budget - usage.taken

    def _in_order_of_going(self, keep: Collection[str]) -> Iterable[Resident]:
        """What may be dropped to make room, the first to go first."""
        now = self.clock()
        idle = {r.id: r for r in self._residents.values() if r.may_go and r.id not in keep}
        order = self._policy.order(idle)
        # Sorting keeps the policy's order within each half.
        for name in sorted(order, key=lambda name: not idle[name].has_expired(now)):
            built = idle[name].built
            if built is not None and not built.memory.in_use():
                yield idle[name]

    def _use(self, resident: Resident) -> None:
        cost = reload_seconds(resident.size_bytes, resident.load_seconds)
        self._policy.use(resident.id, resident.size_bytes, cost)

    def _note_watermark(self) -> None:
        self._high_watermark = max(self._high_watermark, self.usage().taken)

    def _eviction(self, dropped: list[Resident]) -> Eviction:
        held = [r for r in dropped if r.built is not None]
        zombie = sum(r.size_bytes for r in held if r.built is not None and r.built.memory.in_use())
        return Eviction(dropped, sum(r.size_bytes for r in held) - zombie, zombie)

    def _forget(self, resident: Resident, refs: Collection[ComponentRef]) -> None:
        """It no longer counts as these; dropped, unless a lease or pin of another model holds it."""
        if resident.leases or resident.pins:
            for ref in refs:
                resident.refs.pop(ref, None)
            self.on_change(resident, False)
        else:
            self.drop(resident)
