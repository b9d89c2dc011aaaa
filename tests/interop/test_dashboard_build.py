"""What is committed of the dashboard is what its sources make."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]


def test_the_built_files_are_those_of_the_sources() -> None:
    if shutil.which("npm") is None:
        assert "CI" not in os.environ, "npm is missing"
        pytest.skip("npm is missing")
    done = subprocess.run(
        [str(ROOT / "scripts" / "dashboard.sh"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
