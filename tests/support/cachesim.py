"""A cache of names and sizes that runs through a list of accesses: what a policy is worth, without memory.

Beside a policy of ours stand plain LRU and what knows the future (Belády, "A study of replacement algorithms
for a virtual-storage computer", 1966): the component whose next use is farthest away goes first. With
components of one size that is the best there is when each that is asked for has to be brought in; with
several sizes it is a mark to go by, and no bound.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from modelkeep_loader.domain.policy import Policy

MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """A component: bytes, and what loading it takes in seconds."""

    size_bytes: int
    reload_s: float


@dataclass(frozen=True, slots=True)
class Score:
    """What came of a run.

    Attributes:
        hits: Accesses to what was there.
        accesses: All of them.
        waited_s: Seconds of loading.
        peak_bytes: The most that was there at once.
    """

    hits: int
    accesses: int
    waited_s: float
    peak_bytes: int

    @property
    def hit_ratio(self) -> float:
        """Share of the accesses that found what they wanted."""
        return self.hits / self.accesses


class LeastRecentlyUsed:
    """Plain LRU, as a policy."""

    def __init__(self) -> None:
        self._turn = 0
        self._turns: dict[str, int] = {}

    def use(self, name: str, size_bytes: int, reload_s: float) -> None:
        self._turn += 1
        self._turns[name] = self._turn

    def order(self, names: Collection[str]) -> list[str]:
        return sorted(names, key=self._turns.__getitem__)

    def forget(self, name: str, *, made_room: bool = False) -> None:
        self._turns.pop(name, None)


class Belady:
    """Knows the accesses to come; as a policy."""

    def __init__(self, accesses: Sequence[str]) -> None:
        self._uses: dict[str, list[int]] = {}
        for turn, name in enumerate(accesses):
            self._uses.setdefault(name, []).append(turn)
        self._now = -1

    def use(self, name: str, size_bytes: int, reload_s: float) -> None:
        self._now = self._uses[name][bisect.bisect_right(self._uses[name], self._now)]

    def order(self, names: Collection[str]) -> list[str]:
        return sorted(names, key=self._next, reverse=True)

    def forget(self, name: str, *, made_room: bool = False) -> None:
        pass

    def _next(self, name: str) -> float:
        # What is asked for at this very moment has not been told to `use` yet.
        later = bisect.bisect_right(self._uses[name], self._now)
        return self._uses[name][later] if later < len(self._uses[name]) else float("inf")


def run(
    policy: Policy,
    items: Mapping[str, Item],
    accesses: Sequence[str],
    budget_bytes: int,
    measure: Callable[[float], float] = lambda seconds: seconds,
) -> Score:
    """Ask for one after the other.

    Args:
        policy: Which goes first.
        items: What there is.
        accesses: Names, in order.
        budget_bytes: What may be there at once; each item fits.
        measure: What a load that takes so many seconds is measured as.
    """
    there: dict[str, float] = {}
    used = peak = hits = 0
    clock = 0.0  # moves by loading alone
    for name in accesses:
        item = items[name]
        if name in there:
            hits += 1
        else:
            for victim in policy.order(there.keys()):
                if used + item.size_bytes <= budget_bytes:
                    break
                policy.forget(victim, made_room=True)
                del there[victim]
                used -= items[victim].size_bytes
            there[name] = measure(item.reload_s)
            used, clock = used + item.size_bytes, clock + item.reload_s
            peak = max(peak, used)
        policy.use(name, item.size_bytes, there[name])
    return Score(hits, len(accesses), clock, peak)


# What is asked for.


def zipf(names: Sequence[str], count: int, dice: random.Random, exponent: float = 0.9) -> list[str]:
    """Some are asked for much oftener than others."""
    weights = [1 / (rank + 1) ** exponent for rank in range(len(names))]
    return dice.choices(list(names), weights, k=count)


def loop(names: Sequence[str], count: int, dice: random.Random) -> list[str]:
    """A batch that needs a few more than fit, over and over: the worst there is for LRU."""
    few = list(names)[:10]
    return [few[turn % len(few)] for turn in range(count)]


def scan(names: Sequence[str], count: int, dice: random.Random) -> list[str]:
    """A few hot ones, and now and then somebody who tries every model once."""
    found: list[str] = []
    while len(found) < count:
        found += dice.choices(list(names)[:5], k=60)
        found += names
    return found[:count]


def shifting(names: Sequence[str], count: int, dice: random.Random) -> list[str]:
    """As zipf, and what is liked changes every five hundred accesses."""
    found: list[str] = []
    order = list(names)
    while len(found) < count:
        dice.shuffle(order)
        found += zipf(order, 500, dice, 1.2)
    return found[:count]


PATTERNS: Mapping[str, Callable[[Sequence[str], int, random.Random], list[str]]] = {
    "zipf": zipf,
    "loop": loop,
    "scan": scan,
    "shifting": shifting,
}

NAMES: Sequence[str] = [f"c{number:02}" for number in range(24)]
BUDGET = 512 * MB


def equal() -> dict[str, Item]:
    """24 components of 64 MB that load equally fast."""
    return dict.fromkeys(NAMES, Item(64 * MB, 0.5))


def costly() -> dict[str, Item]:
    """The same; every third is converted first, and takes eight times as long."""
    return {name: Item(64 * MB, 4.0 if number % 3 == 1 else 0.5) for number, name in enumerate(NAMES)}


def mixed(dice: random.Random) -> dict[str, Item]:
    """Of 8 to 256 MB; a load takes a while to begin, and some are on a slow disk."""
    sizes = [dice.choice((8, 16, 32, 64, 128, 256)) * MB for _ in NAMES]
    return {
        name: Item(size, 0.1 + size * dice.choice((2e-9, 2e-9, 1.6e-8)))
        for name, size in zip(NAMES, sizes, strict=True)
    }
