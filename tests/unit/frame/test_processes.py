"""Starting processes: whose code runs in them, what they inherit, and when they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelkeep import processes

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(60)

#: What a started process can say about itself, as a package that its PYTHONPATH leads to.
_TELL = """
import json, os, sys, time
said = {
    "cwd": os.getcwd(), "safe": bool(sys.flags.safe_path), "env": dict(os.environ),
    "fds": sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    "session": os.getsid(0) == os.getpid(),
}
print(json.dumps(said), flush=True)
if sys.argv[1:] == ["stay"]:
    time.sleep(60)
"""


@pytest.fixture
def teller(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "teller.py").write_text(_TELL)
    return {"PYTHONPATH": str(tmp_path)}


def told(process: processes.Process) -> dict[str, object]:
    assert process.stdout is not None
    with process.stdout as stream:
        said: dict[str, object] = json.loads(stream.readline())
    return said


@pytest.mark.parametrize("outlives_parent", [False, True])
def test_a_process_gets_nothing_but_what_is_named(
    teller: dict[str, str], monkeypatch: pytest.MonkeyPatch, outlives_parent: bool
) -> None:
    traps = ("PYTHONSTARTUP", "PYTHONHOME", "PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONBREAKPOINT")
    for name in traps:
        monkeypatch.setenv(name, "trap")
    monkeypatch.setenv("PYTHONPATH", "/trap")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib")
    monkeypatch.setenv("PYTHONUTF8", "1")
    reader, writer = os.pipe()
    secret = os.dup(reader)
    os.set_inheritable(secret, True)
    try:
        process = processes.start(
            "teller",
            environment={**teller, "ADDED": "yes"},
            stdout=processes.PIPE,
            keep_open=[reader],
            outlives_parent=outlives_parent,
        )
        said = told(process)
        assert process.wait(30) == 0
    finally:
        for fd in (reader, writer, secret):
            os.close(fd)
    variables = said.pop("env")
    assert isinstance(variables, dict)
    assert variables.keys().isdisjoint(traps)
    assert variables["PYTHONUTF8"] == "1"
    assert variables["PYTHONPATH"] == teller["PYTHONPATH"], "named, and not inherited"
    assert (variables["LD_LIBRARY_PATH"], variables["ADDED"]) == ("/opt/cuda/lib", "yes")
    assert said == {"cwd": "/", "safe": True, "fds": [0, 1, 2, reader], "session": True}


def test_a_process_survives_the_thread_that_started_it(teller: dict[str, str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        process = pool.submit(
            lambda: processes.start("teller", "stay", environment=teller, stdout=processes.PIPE)
        ).result()
    try:
        assert told(process)["safe"]
        assert process.wait(0.5) is None
    finally:
        process.end()


_PARENT = """
import os, sys, time
from modelkeep import processes
process = processes.start(
    "teller", "stay", environment={"PYTHONPATH": sys.argv[1]}, stdout=processes.PIPE,
    outlives_parent=sys.argv[2] == "True",
)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("outlives_parent", [False, True])
def test_a_process_ends_with_a_parent_that_is_killed_unless_it_shall_outlive_it(
    teller: dict[str, str], outlives_parent: bool
) -> None:
    command = [sys.executable, "-c", _PARENT, teller["PYTHONPATH"], str(outlives_parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        child = os.pidfd_open(pid)
        parent.kill()
    try:
        deadline = time.monotonic() + (0.5 if outlives_parent else 30)
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert is_running(pid) == outlives_parent
    finally:
        if outlives_parent:
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_system_that_refuses_is_told_to_who_asked(teller: dict[str, str]) -> None:
    with pytest.raises(OSError, match="Argument list too long"):
        processes.start("teller", "x" * (1 << 20))


@pytest.mark.parametrize(
    "line",
    [
        "import subprocess",
        "from subprocess import run",
        "import multiprocessing",
        "from multiprocessing import Process",
        "import asyncio\nasyncio.create_subprocess_exec('true')",
        "from concurrent.futures import ProcessPoolExecutor",
        "import os\nos.fork()",
        "from os import execv",
        "import os\nos.posix_spawn('true', [], {})",
        "import os\nos.system('true')",
    ],
)
def test_the_lint_refuses_another_way_to_start_a_process(tmp_path: Path, line: str) -> None:
    module = tmp_path / "services" / "modelkeep_record" / "store.py"
    module.parent.mkdir(parents=True)
    module.write_text(line + "\n")
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run(
        [ruff, "check", "--select", "TID251", "--no-cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "modelkeep.processes.start" in done.stdout
