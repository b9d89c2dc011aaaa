"""Commands typed in a folder full of traps: not one of its files is run, by no process of the suite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelkeep.supervisor import read_suite_file
from support import tinymodels

pytestmark = pytest.mark.timeout(240)

_BIN = Path(sys.executable).parent
#: What services, helper, workers and the command line import, and what Python imports by itself.
_NAMES = {
    *(name for name in sys.stdlib_module_names if not name.startswith("_")),
    *("modelkeep_common", "modelkeep_record", "modelkeep_download", "modelkeep_install", "modelkeep_loader"),
    *("modelkeep_convert", "accelerate", "blake3", "diffusers", "google", "grpc", "grpc_health", "numpy"),
    *("PIL", "protovalidate"),
    *("pydantic", "rich", "safetensors", "torch", "transformers", "typer", "uvloop"),
    *("yaml", "sitecustomize", "usercustomize"),
}


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A folder in which every module that somebody could import by mistake writes down that it was run."""
    folder = tmp_path / "traps"
    folder.mkdir()
    for name in _NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('a trap')\n"
        )
    for library in ("libc.so.6", "libcuda.so.1", "libtorch.so"):
        (folder / library).write_bytes(b"\x7fELF a trap")
    return folder


def what_ran(traps: Path) -> list[str]:
    ran = traps.parent / "ran"
    return sorted(set(ran.read_text().split())) if ran.exists() else []


def test_the_traps_work(traps: Path) -> None:
    subprocess.run([sys.executable, "-c", "import json"], cwd=traps, check=False, stderr=subprocess.DEVNULL)
    assert "json" in what_ran(traps)


def modelkeep(*arguments: str, cwd: Path, env: Mapping[str, str], code: int = 0) -> str:
    """Run the installed command line program; returns what it printed."""
    done = subprocess.run(
        [_BIN / "modelkeep", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long  # the loader of a whole suite imports torch in its helper
def test_a_suite_started_among_traps_installs_and_loads_without_running_one(
    traps: Path, data_dir: Path
) -> None:
    model = tinymodels.save_vae_file(data_dir / "vae.safetensors")
    env = {**os.environ, "MODELKEEP_DATA_DIR": str(data_dir / "data")}
    up = subprocess.Popen(
        [_BIN / "modelkeep", "up", "--port", "0", "--data-dir", str(data_dir / "data")],
        cwd=traps,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while read_suite_file(data_dir / "data") is None:
            assert up.poll() is None, up.communicate()[0]
            assert time.monotonic() < deadline, "the suite does not start"
            time.sleep(0.1)
        modelkeep("install", str(model), "--name", "small", "--set", "base=sd-1", cwd=traps, env=env)
        modelkeep("load", "small", cwd=traps, env=env)
    finally:
        up.send_signal(signal.SIGINT)
        said = up.communicate(timeout=90)[0]
    assert up.returncode == 0, said
    assert what_ran(traps) == []


@pytest.mark.parametrize(
    "module",
    ["modelkeep_record", "modelkeep_download", "modelkeep_install", "modelkeep_loader", "modelkeep.cli"],
)
def test_a_module_of_the_suite_run_among_traps_leaves_them_alone(traps: Path, module: str) -> None:
    # What `python -m` itself imports before any code of ours, only `python -P -m` can protect.
    launcher = "import runpy, sys; print(*sys.modules)"
    own = subprocess.run([sys.executable, "-c", launcher], capture_output=True, text=True, check=True).stdout
    for name in [*own.split(), module]:
        (traps / f"{name}.py").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=traps, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert what_ran(traps) == []


def test_relative_paths_in_settings_still_start_where_the_suite_was_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.suite import service_suite

    (data_dir / "models of mine").mkdir()
    monkeypatch.chdir(data_dir)
    env = {"MODELKEEP_INSTALL_MODELS_DIR": "models of mine"}
    with service_suite(data_dir / "data", services=("record", "install"), env=env):
        assert (data_dir / "models of mine" / ".modelkeep-root").exists()
