"""What eslint has to say of the code in TypeScript."""

from __future__ import annotations

import subprocess

import pytest

from support import typescript

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

ROOT = typescript.ROOT


def test_eslint_has_nothing_to_say_of_the_client_and_the_dashboard() -> None:
    typescript.built()
    done = subprocess.run(
        [str(ROOT / "scripts" / "npm.sh"), "clients/lint", "clients/dashboard"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["npm", "run", "--silent", "--prefix", str(ROOT / "clients" / "lint"), "lint"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
