"""The committed stubs of other languages are what their buf templates make of proto/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import typescript

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("language", ["go", "typescript"])
def test_committed_stubs_are_current(language: str) -> None:
    if language == "typescript":
        typescript.built()  # which brings the plugin
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "proto_clients.py"), "--check", language],
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
