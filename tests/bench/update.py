"""UpdateModel, durable, against a bare loop of sqlite3 commits on the same disk; driven by ghz.

The bare loop has no server, no rules, no indexes and no history: one row, one COMMIT, over and over. The
service is driven by one client that waits for each answer, and by 16 at once, each call with a request id
as the clients here send it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from figures import Spread, cpu_seconds, interleaved, ratios, report
from getmodel import ROOT, fill, find_ghz

from modelkeep.rpc import Address, TokenFile
from modelkeep.supervisor import Suite

ROUNDS = 7
SECONDS = 3
COMMITS = 1000


def bare_loop(folder: Path) -> Callable[[], float]:
    """Commits per second of one connection that does nothing else."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE models (id INTEGER PRIMARY KEY, message BLOB NOT NULL)")
    connection.execute("INSERT INTO models VALUES (1, x'')")

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(COMMITS):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE models SET message = ? WHERE id = 1", (os.urandom(400),))
            connection.execute("COMMIT")
        return COMMITS / (time.perf_counter() - begin)

    return run


class Updates:
    """Drives UpdateModel with some clients at once, and remembers what the server spent."""

    def __init__(self, address: str, pid: int, key: str, clients: int, token: str) -> None:
        request = '{"model": {"key": "%s", "description": "{{.RequestNumber}}"}, "request_id": "{{newUUID}}"}'
        self._command = [
            *(find_ghz(), "--insecure", "--call", "modelkeep.record.v1.RecordService/UpdateModel"),
            *("--protoset", str(ROOT / "clients/python/modelkeep/api.binpb"), "-d", request % key),
            *("-c", str(clients), "--connections", str(min(clients, 4)), "-z", f"{SECONDS}s"),
            *("-m", json.dumps({"authorization": f"Bearer {token}"}), "-O", "json", address),
        ]
        self._pid = pid
        self.cpu_us: list[float] = []

    def run(self) -> float:
        """Updates per second."""
        before = cpu_seconds(self._pid)
        result = json.loads(subprocess.run(self._command, check=True, capture_output=True).stdout)
        answered = int(result["statusCodeDistribution"]["OK"])
        self.cpu_us.append((cpu_seconds(self._pid) - before) / answered * 1e6)
        return answered / float(result["total"]) * 1e9


def main() -> bool:
    """Run and print; whether the bar holds."""
    with Suite(services=("record",)) as suite:
        address, pid = suite.addresses["record"], suite.pids["record"]
        owners = TokenFile(suite.data_dir / "run" / "tokens" / "owner")
        key = fill(Address("record", address, "the suite", token=owners)).model.key
        # On the suite's own disk: what a commit costs is the disk's affair.
        bare = bare_loop(suite.data_dir)
        holds = True
        for clients, bar in ((1, None), (16, 0.60)):
            updates = Updates(address, pid, key, clients, owners())
            ours, theirs = interleaved(updates.run, bare, rounds=ROUNDS)
            ratio = ratios(ours, theirs)
            who = "one client" if clients == 1 else f"{clients} clients"
            report(f"UpdateModel, {who}", Spread.of(ours).text("updates/s", 0), "-", None)
            report("bare sqlite3 loop", Spread.of(theirs).text("commits/s", 0), "-", None)
            report(f"UpdateModel, {who}: server's CPU", Spread.of(updates.cpu_us).text("µs", 0), "-", None)
            holds &= report(
                f"UpdateModel / bare loop, {who}",
                ratio.text("x"),
                f">= {bar:.2f}" if bar else "-",
                None if bar is None else ratio.median >= bar,
            )
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
