"""How long four services, and RecordService alone, take from nothing to healthy, with a warm environment."""

from __future__ import annotations

import time

from figures import Spread, report, rss_bytes

from modelkeep.supervisor import Suite

ROUNDS = 5


def start(services: tuple[str, ...]) -> tuple[float, int]:
    """Seconds to healthy, and resident bytes of the first service."""
    begin = time.perf_counter()
    with Suite(services=services) as suite:
        seconds = time.perf_counter() - begin
        time.sleep(0.5)
        return seconds, rss_bytes(suite.pids[services[0]])


def main() -> bool:
    """Run and print; whether every bar holds."""
    start(("record",))  # fills the page cache
    all_four: list[float] = []
    alone: list[float] = []
    memory: list[float] = []
    for _ in range(ROUNDS):
        all_four.append(start(("record", "download", "install", "loader"))[0])
        seconds, resident = start(("record",))
        alone.append(seconds)
        memory.append(resident / 1e6)
    return all(
        (
            report(
                "four services to healthy", Spread.of(all_four).text("s"), "<= 1.5 s", max(all_four) <= 1.5
            ),
            report("record alone to healthy", Spread.of(alone).text("s"), "< 1.5 s", max(alone) < 1.5),
            report(
                "record alone, resident memory",
                Spread.of(memory).text("MB", 0),
                "< 120 MB",
                max(memory) < 120,
            ),
        )
    )


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
