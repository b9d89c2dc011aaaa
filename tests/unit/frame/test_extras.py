"""What a service drags in: the record service knows neither torch nor HTTP, and none imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps([len(names), sorted({n.partition(".")[0] for n in sys.modules})]))
"""


def modules_of(package: str, python: str = sys.executable) -> set[str]:
    """The top-level modules that are there after all of a package was imported, in a process of its own."""
    answer = subprocess.run(
        [python, "-c", _IMPORT_ALL, package], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    count, loaded = json.loads(answer.stdout)
    assert count > 3, f"{package} has no modules"
    return set(loaded)


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("modelkeep_record", {"torch", "diffusers", "transformers", "httpx", "numpy"}),
        ("modelkeep_download", {"torch", "diffusers", "transformers"}),
        ("modelkeep_install", {"torch", "diffusers", "transformers", "httpx"}),
        ("modelkeep_loader", {"torch", "diffusers", "transformers", "httpx"}),
    ],
)
def test_a_server_process_imports_only_what_it_needs(package: str, banned: set[str]) -> None:
    assert not modules_of(package) & banned


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_record_extra_alone_is_enough_to_serve_records(tmp_path: Path) -> None:
    """A clean environment with `modelkeep[record]` at the pinned versions, and nothing else."""
    environment = tmp_path / "venv"
    python = str(environment / "bin" / "python")
    uv = [str(Path(sys.executable).parent / "uv")]
    pins = [str(ROOT / "requirements" / name) for name in ("build.txt", "all.txt")]
    constraints = [part for pin in pins for part in ("--constraint", pin)]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "services", "clients"):
        os.symlink(ROOT / name, source / name)
    subprocess.run(
        [*uv, "pip", "install", "--quiet", "--python", python, *constraints, f"{source}[record]"],
        check=True,
        timeout=240,
    )
    assert not modules_of("modelkeep_record", python) & {"torch", "diffusers", "httpx"}
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode != 0
