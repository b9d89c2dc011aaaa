"""UpdateModel, durable, against a handler that answers a constant behind the same interceptors.

The service is driven with ghz by one client that waits for each answer, and by 16 at once, each call with a
request id as the clients here send it; the servers have one core, the load the other. A bare loop of sqlite3
commits on the same disk (one row, one COMMIT, over and over) tells how fast that disk makes a write durable.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from figures import Spread, interleaved, ratios, report
from getmodel import Load, fill, keep_to_one_core, trivial

from modelkeep.rpc import Address, TokenFile
from modelkeep.supervisor import Suite

ROUNDS = 7
COMMITS = 1000
REQUEST = '{"model": {"key": "%s", "description": "{{.RequestNumber}}"}, "request_id": "{{newUUID}}"}'


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


def main() -> bool:
    """Run and print; whether the bar holds."""
    holds = True
    with Suite(services=("record",)) as suite, tempfile.TemporaryDirectory() as scratch:
        address, pid = suite.addresses["record"], suite.pids["record"]
        tokens = suite.data_dir / "run" / "tokens"
        owners = TokenFile(tokens / "owner")
        response = fill(Address("record", address, "the suite", token=owners))
        port = int(address.rpartition(":")[2])
        # On the suite's own disk: what a commit costs is the disk's affair.
        bare = bare_loop(suite.data_dir)
        with trivial(response, Path(scratch), port + 1, tokens / "accepted.json") as process:
            keep_to_one_core(pid, process.pid)
            for clients, bar in ((1, None), (16, 0.35)):
                load = partial(
                    Load,
                    method="UpdateModel",
                    request=REQUEST % response.model.key,
                    clients=clients,
                    token=owners(),
                )
                real, peer = load(address, pid), load(f"127.0.0.1:{port + 1}", process.pid)
                real.run(), peer.run()
                ours, theirs = interleaved(real.run, peer.run, rounds=ROUNDS)
                who = "one client" if clients == 1 else f"{clients} clients"
                report(f"UpdateModel, {who}", Spread.of(ours).text("updates/s", 0), "-", None)
                report(f"trivial handler, {who}", Spread.of(theirs).text("answers/s", 0), "-", None)
                report(f"UpdateModel, {who}: server's CPU", Spread.of(real.cpu_us).text("µs", 0), "-", None)
                report(
                    f"trivial handler, {who}: server's CPU", Spread.of(peer.cpu_us).text("µs", 0), "-", None
                )
                ratio = ratios(ours, theirs)
                holds &= report(
                    f"UpdateModel / trivial, {who}",
                    ratio.text("x"),
                    f">= {bar:.2f}" if bar else "-",
                    None if bar is None else ratio.median >= bar,
                )
            commits = Spread.of([bare() for _ in range(3)])
            report("bare sqlite3 loop", commits.text("commits/s", 0), "-", None)
    return holds


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
