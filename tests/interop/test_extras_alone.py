"""Each service starts with its own extra and nothing else, from a wheel, in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from modelkeep.defaults import SERVICES
from support.deployed import ROOT
from support.importing import modules_of
from support.ports import free_port
from support.waiting import wait_until

#: What comes with another extra, and not with this one.
ABSENT = {
    "record": {"torch", "httpx"},
    "download": {"torch", "aiosqlite"},
    "install": {"torch", "httpx"},
    "loader": {"aiosqlite"},
}

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True
    )
    (made,) = folder.glob("*.whl")
    return made


def environment_of(extra: str, wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment with the package and this extra, as the pins say."""
    uv = str(Path(sys.executable).with_name("uv"))
    place = folder / "environment"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
    python = place / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    pins = ["--constraint", str(ROOT / "requirements" / "all.txt")]
    subprocess.run([*install, *pins, f"{wheel}[{extra}]"], check=True)
    return python


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_its_own_extra_alone(service: str, wheel: Path, tmp_path: Path) -> None:
    python = environment_of(service, wheel, tmp_path)
    look = f"import importlib.util; print({{n for n in {ABSENT[service]} if importlib.util.find_spec(n)}})"
    assert subprocess.check_output([str(python), "-I", "-c", look], text=True) == "set()\n"
    modules_of(f"modelkeep_{service}", str(python))  # all that it has can be imported
    port = free_port()
    settings = ["--data-dir", str(tmp_path / "data"), "--metrics-port", str(port), "--insecure"]
    command = [str(python), "-P", "-m", f"modelkeep_{service}", "--port", "0", *settings]
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MODELKEEP"))
    }

    def is_ready() -> bool:
        assert process.poll() is None, "it ended"
        ready = f"http://127.0.0.1:{port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=5):
            return True
        return False

    with subprocess.Popen(command, cwd="/", env=clean) as process:
        try:
            wait_until(is_ready, "never ready", timeout_s=240)
            subprocess.run([*command, "--health"], cwd="/", env=clean, check=True)
        finally:
            process.terminate()
    assert process.returncode == 0
