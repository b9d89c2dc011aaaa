"""What cargo and Maven build for tests."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BUILD_S = 1700
#: No such program lives long enough for what it compiles in itself to pay.
_HASTY: Mapping[str, str] = {"MAVEN_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


def _built(command: list[str], folder: Path, **environment: str) -> None:
    if shutil.which(command[0]) is None:
        assert "CI" not in os.environ, f"{command[0]} is missing"
        pytest.skip(f"{command[0]} is missing: what it builds cannot be tested")
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr, done.stderr


@functools.cache
def rust_program(name: str) -> Path:
    """A program of clients/rust, such as ``examples/list_models``; the calling test is skipped without cargo.

    Raises:
        AssertionError: It does not compile without a warning, or cargo is missing in CI.
    """
    target = ROOT / ".cache" / "rust"
    command = ["cargo", "build", "--quiet", "--bins", "--examples"]
    # Nobody looks at it with a debugger, and it is built once.
    lean = {"CARGO_PROFILE_DEV_DEBUG": "false", "CARGO_INCREMENTAL": "0"}
    _built(command, ROOT / "clients" / "rust", CARGO_TARGET_DIR=str(target), **lean)
    return target / "debug" / name


@functools.cache
def java_classpath() -> str:
    """Where java finds the stubs, the example and what they need; the calling test is skipped without Maven.

    Raises:
        AssertionError: They are not made, or Maven is missing in CI.
    """
    made = ROOT / ".cache" / "java"
    maven = ["mvn", "--quiet", "--batch-mode", "test-compile", "dependency:build-classpath"]
    if shutil.which("mvn") is not None:
        _built([str(ROOT / "clients" / "java" / "generate.sh")], ROOT, **_HASTY)
    command = [*maven, f"-Dmdep.outputFile={made / 'classpath'}"]
    _built(command, ROOT / "clients" / "java", **_HASTY)
    needed = (made / "classpath").read_text("utf-8").strip()
    return os.pathsep.join([str(made / "classes"), str(made / "test-classes"), needed])
