"""Which components an accelerator takes straight from their files, with no place in RAM on the way.

That is what is wanted on a device and nowhere else: a device was asked for, as a whole, and RAM neither has
it nor is to keep it. Where the choice is left to the loader RAM keeps a copy of what is on a device, which
comes back from there soonest. What has to be made of the files' bytes first (cast, dequantised, renamed, put
in another order) is made in RAM.
"""

from __future__ import annotations

from typing import Final, Protocol

from modelkeep_loader.domain.components import AUTO, BuildProgress, Built, Plan, Stage
from modelkeep_loader.domain.tier import Tier

#: Components that are remembered to take the way through RAM.
_MOST_REFUSED: Final = 10_000


class NotInFilesError(Exception):
    """Too many bytes of a component do not lie in its files as they are lent."""


class Fetches(Protocol):
    """Brings components from their files to one accelerator."""

    async def fetch(self, plan: Plan, progress: BuildProgress) -> Built:
        """Read a component's files into an allocation.

        Raises:
            NotInFilesError: It has to be made in RAM.
            DeviceOutOfMemoryError, DeviceGoneError, DeviceFailedError: As the driver says.
            ModelkeepError: Its files cannot be read, make up no component, or are others than the plan's.
        """
        ...


class Straight:
    """Knows the way that each component takes. Belongs to one event loop.

    Args:
        ram: What the host's own memory has.
    """

    def __init__(self, ram: Tier) -> None:
        self._ram = ram
        self._refused: dict[str, None] = {}

    def goes(self, plan: Plan) -> bool:
        """Whether a component that is not on its accelerator yet needs no place in RAM on its way there."""
        placed = plan.placed
        if placed is None or placed.part_bytes or plan.ref.device == AUTO:
            return False
        if not plan.in_files or placed.source_id in self._refused:
            return False
        found = self._ram.get(placed.source_id)
        is_there = found is not None and found.stage is not Stage.FAILED
        return not is_there and not self._ram.pins.keys_of(placed.source_id)

    def refuse(self, plan: Plan) -> None:
        """A look at its files has shown that a component has to be made in RAM."""
        assert plan.placed is not None, "it is for an accelerator"
        self._refused[plan.placed.source_id] = None
        if len(self._refused) > _MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
