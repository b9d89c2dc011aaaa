"""The loader's policy beside plain LRU and what knows the future: 10,000 accesses to 24 components in 512 MB.

No memory is taken, and no time measured: the accesses are drawn, and their costs are given.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from figures import report

sys.path.insert(0, str(Path(__file__).parents[1]))

from modelkeep_loader.domain.policy import GreedyDualSize
from support import cachesim
from support.cachesim import BUDGET, NAMES, PATTERNS, Belady, LeastRecentlyUsed

ACCESSES = 10_000
SEED = 7


def main() -> bool:
    """Run and print; whether the bars hold."""
    all_hold = True
    sets = {
        "equal": cachesim.equal(),
        "a third costly": cachesim.costly(),
        "mixed sizes": cachesim.mixed(random.Random(3)),
    }
    for kind, items in sets.items():
        for pattern, draw in PATTERNS.items():
            accesses = draw(NAMES, ACCESSES, random.Random(SEED))
            ours = cachesim.run(GreedyDualSize(), items, accesses, BUDGET)
            plain = cachesim.run(LeastRecentlyUsed(), items, accesses, BUDGET)
            best = cachesim.run(Belady(accesses), items, accesses, BUDGET)
            report(
                f"hits, {kind}, {pattern}: ours, LRU, Belády",
                f"{ours.hit_ratio:.1%}, {plain.hit_ratio:.1%}, {best.hit_ratio:.1%}",
                "-",
                None,
            )
            ratio = ours.waited_s / plain.waited_s
            label = f"loading, {kind}, {pattern}: ours / LRU"
            holds = report(label, f"{ratio:.2f}", "<= 1.05", ratio <= 1.05)
            all_hold = all_hold and holds
    return all_hold


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
