"""What every benchmark needs: interleaved rounds, medians, and one way to print them.

Machines are shared and noisy: an absolute time proves nothing. So a subject and its peer run in turn in
the same process tree, and what counts is the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, median and maximum of one figure over the rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of `values`, which must not be empty."""
        return cls(min(values), statistics.median(values), max(values))

    def text(self, unit: str, digits: int = 2) -> str:
        """Like ``0.71 s (0.69–0.80)``."""
        return f"{self.median:.{digits}f} {unit} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def interleaved(
    subject: Callable[[], float], peer: Callable[[], float], *, rounds: int
) -> tuple[list[float], list[float]]:
    """Run both in turn, `rounds` times; who goes first alternates."""
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds):
        for mine in (True, False) if turn % 2 == 0 else (False, True):
            (ours if mine else theirs).append((subject if mine else peer)())
    return ours, theirs


def ratios(over: list[float], under: list[float]) -> Spread:
    """Spread of the ratios of runs of the same round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def report(name: str, value: str, bar: str, ok: bool | None) -> bool:
    """Print one line; `ok` None means that there is no bar to hold. Returns whether the bar holds."""
    verdict = "" if ok is None else ("  holds" if ok else "  FALLS SHORT")
    print(f"{name:<58} {value:<44} bar: {bar}{verdict}", flush=True)
    return ok is not False


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Processor time of a process so far, user and system; with that of its children that have ended."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")
