"""What downloads are compared with: aria2, curl, huggingface_hub, hashlib; and how a run is measured."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: In a process of its own, whose import does not count.
_HUB = """
import sys, time
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import disable_progress_bars
disable_progress_bars()
begin = time.perf_counter()
with open(sys.argv[2], "wb") as file:
    http_get(sys.argv[1], file)
print(time.perf_counter() - begin)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of ours or of a peer."""

    seconds: float
    #: Processor time, user and system, of the process that did it.
    cpu_s: float = 0.0
    #: Most connections at once that were seen.
    connections: int = 0
    #: Bytes of memory that it took at most, over those that it has when idle.
    memory: int = 0

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s ({self.cpu_s:.2f} CPU)"


Party = Callable[[], Ran]


@dataclass(slots=True)
class Race:
    """Parties that run in turn, round by round; another goes first each time."""

    parties: dict[str, Party]
    runs: dict[str, list[Ran]] = field(default_factory=dict)

    def run(self, rounds: int) -> Race:
        """Run them all, so often; what each round gave is printed, with the machine's load."""
        names = list(self.parties)
        for turn in range(rounds):
            at = turn % len(names)
            for name in names[at:] + names[:at]:
                self.runs.setdefault(name, []).append(self.parties[name]())
            told = "  ".join(f"{name} {self.runs[name][-1]}" for name in names)
            print(f"    round {turn + 1}: {told}; load {os.getloadavg()[0]:.1f}", flush=True)
        return self

    def seconds(self, name: str) -> list[float]:
        """How long a party took, by round."""
        return [run.seconds for run in self.runs[name]]


def measured(command: Sequence[str], *, environment: dict[str, str] | None = None) -> tuple[Ran, str]:
    """Run a program to its end; what it took, and what it printed.

    Raises:
        RuntimeError: It failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout is not None
    try:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} failed with {process.returncode}: {output}")
    return Ran(seconds, usage.ru_utime + usage.ru_stime), output


@dataclass(frozen=True, slots=True)
class Peers:
    """The others, each writing into one folder, whose files are checked for their size and removed.

    Args:
        folder: Where they write.
        certificate: Authority that TLS connections are checked against.
    """

    folder: Path
    certificate: Path

    def aria2(self, url: str, size: int, *, sha256: str = "") -> Party:
        """aria2 with 16 connections; with its own check of the file, if a hash is given."""
        name = "aria2.bin"
        flags = ["-x16", "-s16", "-k1M", "--file-allocation=none", "--no-conf", "-q"]
        flags += [f"--ca-certificate={self.certificate}", "-d", str(self.folder), "-o", name]
        flags += [f"--checksum=sha-256={sha256}"] if sha256 else []
        return self._party(["aria2c", *flags, url], name, size)

    def curl(self, url: str, size: int) -> Party:
        """curl: one connection."""
        name = "curl.bin"
        flags = ["-q", "-sSf", "--cacert", str(self.certificate), "-o", str(self.folder / name)]
        return self._party(["curl", *flags, url], name, size)

    def curl_then_sha256sum(self, url: str, size: int) -> Party:
        """curl, and then coreutils' sha256sum over the file."""
        file = self.folder / "curl.bin"

        def run() -> Ran:
            fetched, _ = measured(["curl", "-q", "-sSf", "-o", str(file), url])
            hashed, _ = measured(["sha256sum", str(file)])
            self._collect(file.name, size)
            return Ran(fetched.seconds + hashed.seconds, fetched.cpu_s + hashed.cpu_s)

        return run

    def curl_many(self, urls: Sequence[str], size: int) -> Party:
        """curl -Z with 16 transfers at once, of one size each; the files stay (see `Fetcher.folder`)."""
        config = self.folder / "curl.urls"
        rounds = itertools.count()
        command = [
            "curl",
            "-q",
            "-sSf",
            "--no-progress-meter",
            "-Z",
            "--parallel-max",
            "16",
            "-K",
            str(config),
        ]

        def run() -> Ran:
            folder = self.folder / f"curl-{next(rounds)}"
            folder.mkdir()
            lines = [
                f'url = "{url}"\noutput = "{folder / str(number)}.bin"\n' for number, url in enumerate(urls)
            ]
            config.write_text("".join(lines))
            ran, _ = measured(command)
            assert [path.stat().st_size for path in folder.iterdir()] == [size] * len(urls)
            return ran

        return run

    def hub(self, url: str, size: int) -> Party:
        """huggingface_hub's http_get, its process's start not counted."""
        file = self.folder / "hub.bin"

        def run() -> Ran:
            ran, printed = measured([sys.executable, "-c", _HUB, url, str(file)])
            self._collect(file.name, size)
            return Ran(float(printed), ran.cpu_s)

        return run

    @staticmethod
    def hashlib(file: Path) -> Party:
        """SHA-256 of a file that is in the page cache, and nothing else."""

        def run() -> Ran:
            begin, cpu = time.perf_counter(), time.process_time()
            with file.open("rb", buffering=0) as data:
                hashlib.file_digest(data, "sha256")
            return Ran(time.perf_counter() - begin, time.process_time() - cpu)

        return run

    def _party(self, command: Sequence[str], name: str, size: int) -> Party:
        def run() -> Ran:
            ran, _ = measured(command)
            self._collect(name, size)
            return ran

        return run

    def _collect(self, name: str, size: int) -> None:
        """See that the file is there, whole, and remove it."""
        file = self.folder / name
        assert file.stat().st_size == size, f"{name} has {file.stat().st_size} bytes, not {size}"
        file.unlink()
