"""An environment of its own with the real InvokeAI, kept in .cache, and roots that it makes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "tests" / "data" / "invokeai" / "requirements.txt"
SCRIPT = Path(__file__).with_name("invokeai_real.py")


def python() -> Path:
    """The environment's interpreter; made at first use, of the package index."""
    key = hashlib.sha256(PINS.read_bytes() + sys.prefix.encode()).hexdigest()[:12]
    folder = ROOT / ".cache" / f"invokeai-{key}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            _make(folder)
    return folder / "bin" / "python"


def make_roots(folder: Path) -> dict[str, Any]:
    """Roots of several releases in a folder, by their names; what is in them."""
    told = _run(str(python()), "-P", str(SCRIPT), str(folder))
    found: dict[str, Any] = json.loads(told)
    return found


def _make(folder: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
    interpreter = folder / "bin" / "python"
    _run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--python",
        str(interpreter),
        "--requirements",
        str(PINS),
    )
    # what it does not have, such as torch, it finds here
    there = _run(str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(there) / "zz_beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "ready").touch()


def _run(*command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INVOKEAI_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout
