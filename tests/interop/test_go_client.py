"""The Go client, compiled and run against live services."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from modelkeep.client import Client
from support.conformance import CASES, cases, ground, through_gateway
from support.installs import small_lora
from support.suite import OwnersSuite, service_suite
from support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
GO = ROOT / "clients" / "go"
#: Documents with a program each, by the name of what it is built as.
READMES = {"readme": GO / "README.md", "ten_lines": GO.parent / "README.md"}
_PROGRAM = re.compile(r"^```go\n(package main\n.*?)^```$", re.MULTILINE | re.DOTALL)
#: Building gRPC for Go takes minutes on a slow machine, the first time.
_BUILD_S = 580
_WAIT_S = 60
#: The packages that are written by hand.
_WRITTEN = (".", "./conformance", "./examples/...")


def go(*arguments: str) -> str:
    done = subprocess.run(
        ["go", *arguments],
        cwd=GO,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs, built once."""
    folder = tmp_path_factory.mktemp("go")
    go("build", "-o", f"{folder}/", "./conformance", "./examples/...")
    for name, document in READMES.items():
        (program,) = _PROGRAM.findall(document.read_text("utf-8"))
        (folder / f"{name}.go").write_text(program)
        go("build", "-o", str(folder / name), str(folder / f"{name}.go"))
    return folder


class Running:
    """A program that prints lines while it runs."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def says(self, text: str) -> str:
        """The first line with a text, once it is there."""
        wait_until(
            lambda: any(text in line for line in self.lines) or not self._reader.is_alive(),
            f"{text!r} is never said",
            _WAIT_S,
        )
        found = [line for line in self.lines if text in line]
        assert found, self.lines
        return found[0]

    def interrupt(self) -> int:
        """Press Ctrl-C; the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Wait for the end; the exit code."""
        code = self._process.wait(_WAIT_S)
        self._reader.join(_WAIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def kill(self) -> None:
        self._process.kill()
        self.end()


@pytest.fixture(scope="module")
def suite(folder: Path) -> Iterator[OwnersSuite]:
    """A suite with a LoRA, for the examples."""
    with service_suite(folder / "data") as started, Client(data_dir=folder / "data") as client:
        client.model_install.register_path(small_lora(folder / "ink.safetensors"))
        yield started


@contextlib.contextmanager
def running(program: Path, *arguments: str, suite: OwnersSuite) -> Iterator[Running]:
    """A program, which finds the suite by its data folder."""
    environment = {"PATH": os.environ["PATH"], "MODELKEEP_DATA_DIR": str(suite.data_dir)}
    started = Running([str(program), *arguments], environment)
    try:
        yield started
    finally:
        started.kill()


def test_its_code_is_formatted_and_vetted_and_its_own_tests_pass() -> None:
    unformatted = subprocess.run(["gofmt", "-l", str(GO)], capture_output=True, text=True, check=True)
    assert not unformatted.stdout
    go("vet", *_WRITTEN)
    go("test", ".")


def test_staticcheck_has_nothing_to_say_of_it() -> None:
    where = os.pathsep.join([str(ROOT / ".cache" / "bin"), os.environ["PATH"]])
    staticcheck = shutil.which("staticcheck", path=where)
    if staticcheck is None:
        assert "CI" not in os.environ, "staticcheck is missing"
        pytest.skip("staticcheck is missing: scripts/tools.sh staticcheck builds it")
    done = subprocess.run(
        [staticcheck, "-checks", "all", *_WRITTEN],
        cwd=GO,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("way", ["plain", "mTLS", "gateway"])
def test_every_conformance_case_holds(way: str, programs: Path, folder: Path) -> None:
    """Behind the gateway, which is plain here, the services speak mTLS with it."""
    (folder / way).mkdir()
    with ground(folder / way, gateway_port=0 if way == "gateway" else None, by_tls=way != "plain") as there:
        settings = through_gateway(there) if way == "gateway" else there.environment
        done = subprocess.run(
            [str(programs / "conformance"), str(CASES)],
            env={"PATH": os.environ["PATH"], **settings},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(cases())} passed, 0 failed\n"


def test_an_install_is_followed_to_its_end(programs: Path, suite: OwnersSuite, folder: Path) -> None:
    source = small_lora(folder / "pen.safetensors")
    with running(programs / "install", str(source), suite=suite) as program:
        done = program.says("installed")
        assert program.end() == 0
    with Client(data_dir=suite.data_dir) as client:
        (model,) = client.model_record_store.search_by_name("pen")
    assert done == f"installed pen as {model.key}"
    assert any("INSTALL_STATE_COMPLETED" in line for line in program.lines)


def test_a_failed_install_says_why_and_what_helps(programs: Path, suite: OwnersSuite, folder: Path) -> None:
    (folder / "text.safetensors").write_text("This is no model.")
    with running(programs / "install", str(folder / "text.safetensors"), suite=suite) as program:
        assert program.end() == 1
    assert "is no valid safetensors file" in program.lines[-1]
    assert "Fetch the file itself" in program.lines[-1]


def test_a_watch_goes_on_across_a_restart_of_the_service(programs: Path, suite: OwnersSuite) -> None:
    # A record that no installer goes on to change.
    pencil = {"name": "pencil", "path": "/m/pencil", "base": "sd-1", "type": "lora", "format": "lycoris"}
    with Client(data_dir=suite.data_dir) as client:
        store = client.model_record_store
        key = store.add_model("", pencil).key
        with running(programs / "watch", suite=suite) as program:
            program.says(f"have {key} pencil")
            store.update_model(key, {"name": "before"})
            program.says(f"put {key} before")
            suite.kill("record")
            suite.restart("record")
            store.update_model(key, {"name": "after"})
            program.says(f"put {key} after")
            assert program.interrupt() == 0
    # Each change once: nothing was told again, and nothing was lost.
    told = [line for line in program.lines if key in line]
    assert told == [f"have {key} pencil", f"put {key} before", f"put {key} after"]


def test_a_lease_is_held_across_a_restart_of_the_loader_until_it_is_closed(
    programs: Path, suite: OwnersSuite
) -> None:
    with Client(data_dir=suite.data_dir) as client:
        (ink,) = client.model_record_store.search_by_name("ink")
        with running(programs / "lease", ink.key, suite=suite) as program:
            lease_id = program.says("held ink").rpartition(" ")[2]
            assert [lease.id for lease in client.model_loader.leases()] == [lease_id]
            suite.kill("loader")
            suite.restart("loader")
            wait_until(
                lambda: (
                    [(lease.id, lease.stream_bound) for lease in client.model_loader.leases()]
                    == [(lease_id, True)]
                ),
                "the lease is not taken up again",
                _WAIT_S,
            )
            assert program.interrupt() == 0
        assert not client.model_loader.leases()


@pytest.mark.parametrize("name", READMES)
def test_the_program_of_a_readme_tells_the_models(name: str, programs: Path, suite: OwnersSuite) -> None:
    with running(programs / name, suite=suite) as program:
        program.says("ink")


def test_an_error_of_the_loader_is_told_by_what_it_says(programs: Path, suite: OwnersSuite) -> None:
    with running(programs / "lease", "f" * 32, suite=suite) as program:
        assert program.end() == 1
    assert "ListModels shows the models that there are." in program.lines[-1]
