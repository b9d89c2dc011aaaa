"""An environment of `make run TORCH=none`: no torch, no loader, and everything else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from modelkeep.suitefile import read_suite_file
from support import modelshapes
from support.httpserver import HttpServer, Resource
from support.suite import LOOPBACK_DOWNLOADS

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"


#: Pinned for some platforms alone, this one among them.
OF_PLATFORM = ("protobuf-py-ext", "uvloop", "httpcore2", "truststore", "hf-xet")


def pins(name: str) -> dict[str, str]:
    """Name to version in a file of requirements, as far as they are for every platform."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line))


@pytest.fixture(scope="module")
def python(folder: Path) -> Path:
    """The interpreter of an environment that holds what requirements/none.txt names, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/*/site-packages")
    here = Path(sysconfig.get_paths()["purelib"])
    for name in [*pins("none"), *OF_PLATFORM, "modelkeep"]:
        for file in distribution(name).files or ():
            entry = here / file.parts[0]
            if file.parts[0] != ".." and not (site / entry.name).is_symlink() and entry.exists():
                (site / entry.name).symlink_to(entry)
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def data(folder: Path, python: Path) -> Iterator[Path]:
    """The data folder of a suite that runs there."""
    data = folder / "data"
    up = subprocess.Popen(
        [python, "-P", "-m", "modelkeep.cli", "up", "--port", "0", "--data-dir", data],
        env={**os.environ, **LOOPBACK_DOWNLOADS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while read_suite_file(data) is None:
        assert up.poll() is None, up.communicate()[0]
        time.sleep(0.05)
    yield data
    up.terminate()
    said = up.communicate(timeout=60)[0]
    assert up.returncode == 0, said
    assert "Without the loader: torch is not installed" in said


def test_the_environment_has_no_torch_and_neither_has_the_list_of_its_packages(python: Path) -> None:
    for name in ("torch", "numpy", "safetensors", "diffusers", "transformers"):
        absent = subprocess.run([python, "-c", f"import {name}"], capture_output=True, check=False)
        assert absent.returncode == 1
        assert name not in pins("none")
    assert pins("none").items() <= pins("all").items()


def test_the_hubs_own_library_is_there_without_torch(python: Path) -> None:
    done = subprocess.run(
        [python, "-P", "-c", "import modelkeep_download.resolve.hub_client"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_record_download_and_install_run_and_install_a_file_by_path_and_by_url(
    data: Path, python: Path, folder: Path, web: HttpServer
) -> None:
    described = read_suite_file(data)
    assert described is not None
    assert set(described.addresses) == {"record", "download", "install"}

    def modelkeep(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [python, "-P", "-m", "modelkeep.cli", "--data-dir", data, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    local = modelshapes.write_safetensors(folder / "local.safetensors", modelshapes.table("lora.sd-1.peft"))
    remote = modelshapes.write_safetensors(folder / "r.safetensors", modelshapes.table("lora.sd-1.kohya"))
    web.resources["/remote.safetensors"] = Resource(remote.read_bytes())
    modelkeep("install", "--copy", str(local))
    modelkeep("install", web.url("/remote.safetensors"))
    listed = modelkeep("list")
    assert "local" in listed
    assert "remote" in listed
    assert "runs without it" in modelkeep("load", "local", code=4)
    assert "torch" in modelkeep("demo", code=1)


def test_the_requirements_for_processors_name_nothing_of_a_gpu() -> None:
    names = [re.split(r"[=\[; ]", line)[0] for line in (REQUIREMENTS / "cpu.txt").read_text().splitlines()]
    assert "torch" in names
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]
    assert set(names) <= {
        re.split(r"[=\[; ]", line)[0] for line in (REQUIREMENTS / "all.txt").read_text().splitlines()
    }
