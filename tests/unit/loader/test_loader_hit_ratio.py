"""What the policy is worth: 10,000 accesses to 24 components in a cache of 512 MB, beside LRU and Belády."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from modelkeep_loader.domain.policy import GreedyDualSize
from support import cachesim
from support.cachesim import BUDGET, NAMES, PATTERNS, Belady, Item, LeastRecentlyUsed, Score

ACCESSES = 10_000
every_pattern = pytest.mark.parametrize("pattern", sorted(PATTERNS))
every_seed = pytest.mark.parametrize("seed", [7, 8])


def scores(
    items: Mapping[str, Item],
    pattern: str,
    seed: int,
    measure: Callable[[float], float] = lambda seconds: seconds,
) -> tuple[Score, Score, Score]:
    """Of ours, LRU and Belády, all on the same accesses."""
    accesses = PATTERNS[pattern](NAMES, ACCESSES, random.Random(seed))
    ours = cachesim.run(GreedyDualSize(), items, accesses, BUDGET, measure)
    plain = cachesim.run(LeastRecentlyUsed(), items, accesses, BUDGET)
    best = cachesim.run(Belady(accesses), items, accesses, BUDGET)
    assert all(score.peak_bytes <= BUDGET for score in (ours, plain, best))
    return ours, plain, best


@every_seed
@every_pattern
def test_where_all_cost_the_same_it_is_lru_and_the_best_there_is_is_better(pattern: str, seed: int) -> None:
    ours, plain, best = scores(cachesim.equal(), pattern, seed)
    assert ours.hits == plain.hits
    assert best.hits > ours.hits, "no policy beats the one that knows the future"


@every_seed
@every_pattern
def test_seconds_that_are_measured_anew_by_each_load_cost_next_to_nothing(pattern: str, seed: int) -> None:
    dice = random.Random(seed)
    ours, plain, best = scores(
        cachesim.equal(), pattern, seed, lambda seconds: seconds * dice.uniform(0.8, 1.25)
    )
    assert ours.hit_ratio >= plain.hit_ratio - 0.015
    assert best.hits >= ours.hits


@every_seed
@every_pattern
def test_where_some_take_longer_to_load_less_time_is_spent_on_loading(pattern: str, seed: int) -> None:
    ours, plain, _ = scores(cachesim.costly(), pattern, seed)
    # Somebody who tries every model once drives out the dear by the dear: no better, and hardly worse.
    assert ours.waited_s <= plain.waited_s * (1.03 if pattern == "scan" else 0.75)


@every_seed
@every_pattern
def test_with_many_sizes_and_disks_less_time_is_spent_on_loading(pattern: str, seed: int) -> None:
    items = cachesim.mixed(random.Random(3))
    ours, plain, _ = scores(items, pattern, seed)
    assert ours.waited_s <= plain.waited_s * (1.04 if pattern == "scan" else 0.95)
