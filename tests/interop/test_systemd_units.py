"""deploy/systemd: what systemd itself says of the units."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelkeep.defaults import SERVICES
from support import deployed

pytestmark = pytest.mark.interop


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [deployed.tool("systemd-analyze"), *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with this environment's interpreter in the place of the one that they name."""
    folder = tmp_path / "units"
    shutil.copytree(deployed.UNITS, folder)
    for path in folder.glob("*.service"):
        text = path.read_text()
        assert "/opt/modelkeep/bin/python" in text
        path.write_text(text.replace("/opt/modelkeep/bin/python", sys.executable))
    return folder


def test_systemd_takes_the_units(units: Path) -> None:
    names = [f"modelkeep-{service}.service" for service in SERVICES]
    done = analyze(units, "verify", "--man=no", *(str(units / name) for name in (*names, "modelkeep.target")))
    assert (done.returncode, [line for line in done.stderr.splitlines() if "modelkeep" in line]) == (0, [])


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_calls_the_units_little_exposed(units: Path, service: str) -> None:
    unit = str(units / f"modelkeep-{service}.service")
    done = analyze(units, "security", "--no-pager", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout + done.stderr
