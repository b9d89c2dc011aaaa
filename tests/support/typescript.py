"""The TypeScript client: built, and programs of it running."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "typescript"


@functools.cache
def built() -> Path:
    """Folder of the compiled client, its examples and its tests; the calling test is skipped without Node.

    Raises:
        AssertionError: It does not compile, or Node is missing in CI.
    """
    if shutil.which("npm") is None:
        assert "CI" not in os.environ, "npm is missing"
        pytest.skip("npm is missing: the TypeScript client cannot be built")
    # Other processes' tests may run what is there: one builds, and what is current is not written again.
    lock = ROOT / ".cache" / "typescript.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for command in (
            [str(ROOT / "scripts" / "npm.sh"), "clients/typescript"],
            [str(PACKAGE / "node_modules" / ".bin" / "tsc"), "--project", str(PACKAGE)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return PACKAGE / "dist"


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """That of a program, which finds the services by what is told here alone."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **settings}


def run(program: str, *arguments: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``examples/install`` or its like to its end."""
    return subprocess.run(
        ["node", str(built() / f"{program}.js"), *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Running:
    """A program that runs, and says line by line what it has to say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        """The next line; waits for it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait(20)}"
        return line.rstrip("\n")

    def ask(self, line: str) -> None:
        """Give it a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def until(self, beginning: str) -> str:
        """The next line that begins so; waits for it."""
        while not (line := self.line()).startswith(beginning):
            pass
        return line

    def end(self) -> str:
        """Close its standard input, and what it says until its end, which is a good one."""
        rest, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, rest
        return rest


@contextlib.contextmanager
def running(program: str, *arguments: str, settings: Mapping[str, str]) -> Iterator[Running]:
    """As :func:`run`, while it runs. What it says on standard error comes with the rest."""
    process = subprocess.Popen(
        ["node", str(built() / f"{program}.js"), *arguments],
        env=environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.communicate()
