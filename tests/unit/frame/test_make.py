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


def test_make_help_tells_every_verb_and_there_are_at_most_sixteen() -> None:
    told = re.findall(r"^  make (\S+) +\S", run("make", "help").stdout, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    assert sorted(told) == sorted(declared[1].split())
    assert len(told) <= 16


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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing to install, set up by the true script."""
    for folder in ("scripts", "requirements"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "requirements" / "build.txt").write_text("# what builds it\nuv==0.0.0\n")
    for level in ("all", "cpu", "none", "dev"):
        (tmp_path / "requirements" / f"{level}.txt").write_text("")
    return tmp_path


def set_up(project: Path, level: str = "run", **env: str) -> subprocess.CompletedProcess[str]:
    """The script's run in a project, where no package index can be reached."""
    return subprocess.run(
        ["bash", "scripts/setup.sh", level],
        cwd=project,
        env={
            **os.environ,
            "PIP_NO_INDEX": "1",
            "PYTHON": sys.executable,
            "VENV": ".venv",
            "TORCH": "",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(120)
def test_where_uv_cannot_be_had_setup_goes_on_with_pip_and_is_done_once(project: Path) -> None:
    first = set_up(project)
    assert first.returncode == 0, first.stderr
    assert "uv cannot be had here; going on with pip" in first.stderr
    installed = run(str(project / ".venv" / "bin" / "python"), "-m", "pip", "show", "thing", cwd=project)
    assert installed.returncode == 0, installed.stderr
    again = set_up(project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    # What is there is kept: nobody fetches another build of torch by a word.
    other = set_up(project, TORCH="cpu")
    assert (other.returncode, other.stdout) == (0, "")
    assert "has torch for cuda already, and keeps it" in other.stderr


@pytest.mark.timeout(120)
@pytest.mark.long  # makes several environments
def test_setup_tells_sizes_first_remembers_torch_and_goes_on_where_a_build_cannot_be_had(
    project: Path,
) -> None:
    first = set_up(project, TORCH="none")
    assert first.returncode == 0, first.stderr
    told = first.stdout.splitlines()
    assert re.match(r"setup: TORCH=none: \d+ MB to fetch", told[0])
    assert "(run, TORCH=none)" in told[2]
    again = set_up(project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    # Torch for processors cannot be had here: that is said, with what is fetched in its place.
    later = set_up(project, TORCH="cpu")
    assert later.stdout.startswith("setup: TORCH=cpu: some 0.5 GB to fetch")
    assert later.returncode == 0, later.stderr
    assert re.search(r"cannot be had here; going on .*\n.* GB to fetch", later.stderr)
    assert (project / ".venv" / ".modelkeep-torch").read_text() == "cuda\n"


@pytest.mark.parametrize(("level", "torch"), [("run", "rocm"), ("dev", "none")])
def test_setup_refuses_a_torch_that_it_does_not_know_or_that_the_tests_need(
    project: Path, level: str, torch: str
) -> None:
    refused = set_up(project, level, TORCH=torch)
    assert refused.returncode == 2
    assert "say " in refused.stderr
    assert not (project / ".venv").exists()


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
