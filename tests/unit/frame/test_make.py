"""The verbs and the scripts behind them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(*command: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """A command, its output and its exit code."""
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=25, check=False
    )


def test_make_help_tells_every_verb_and_there_are_at_most_ten() -> None:
    told = re.findall(r"^  make (\S+) +\S", run("make", "help").stdout, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    assert sorted(told) == sorted(declared[1].split())
    assert len(told) <= 10


def test_a_check_that_does_not_exist_fails() -> None:
    answer = run("scripts/check.sh", "proto-format", "nonsense")
    assert answer.returncode == 1
    assert "no check named 'nonsense'" in answer.stdout
    assert "failed: nonsense" in answer.stderr


def test_setup_refuses_an_unknown_level() -> None:
    assert run("scripts/setup.sh", "everything").returncode == 2


#: Builds the project of the test below with nothing but the standard library.
BACKEND = """
import zipfile
def build_editable(folder, settings=None, metadata=None):
    name, info = "thing-1-py3-none-any.whl", "thing-1.dist-info/"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: thing\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


@pytest.mark.timeout(120)
def test_where_uv_cannot_be_had_setup_goes_on_with_pip_and_is_done_once(tmp_path: Path) -> None:
    for folder in ("scripts", "requirements"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "requirements" / "build.txt").write_text("# what builds it\nuv==0.0.0\n")
    for level in ("all", "dev"):
        (tmp_path / "requirements" / f"{level}.txt").write_text("")

    def setup() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "scripts/setup.sh", "run"],
            cwd=tmp_path,
            env={**os.environ, "PIP_NO_INDEX": "1", "PYTHON": sys.executable, "VENV": ".venv"},
            capture_output=True,
            text=True,
            check=False,
        )

    first = setup()
    assert first.returncode == 0, first.stderr
    assert "uv cannot be had here; going on with pip" in first.stderr
    installed = run(str(tmp_path / ".venv" / "bin" / "python"), "-m", "pip", "show", "thing", cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    again = setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.fixture
def tools_alone(tmp_path: Path) -> Path:
    """scripts/tools.sh in a folder of its own, and a PATH with no Go on it."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "tools.sh", tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    for program in ("bash", "dirname", "mkdir", "touch", "env"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / "bin" / program).symlink_to(found)
    return tmp_path


def test_without_go_the_long_tests_say_what_to_do(tools_alone: Path) -> None:
    answer = run("bash", "scripts/tools.sh", cwd=tools_alone, PATH=str(tools_alone / "bin"))
    assert answer.returncode == 1
    assert "grpcurl is built with Go" in answer.stderr
    assert "Install Go" in answer.stderr


def test_a_tool_that_is_built_is_not_built_again(tools_alone: Path) -> None:
    built = tools_alone / ".cache" / "bin"
    built.mkdir(parents=True)
    version = re.search(r"grpcurl@(\S+)", (ROOT / "scripts" / "tools.sh").read_text())
    assert version is not None
    (built / "grpcurl").touch(mode=0o755)
    (built / f".grpcurl-{version[1]}").touch()
    answer = run("bash", "scripts/tools.sh", cwd=tools_alone, PATH=str(tools_alone / "bin"))
    assert (answer.returncode, answer.stdout) == (0, "")


def test_the_scripts_are_valid_bash() -> None:
    for script in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]:
        answer = run("bash", "-n", str(script))
        assert answer.returncode == 0, answer.stderr
        assert os.access(script, os.X_OK), f"{script} is not executable"
