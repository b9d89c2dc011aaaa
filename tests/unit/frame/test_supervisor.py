"""The supervisor with two toy services: start, faults at start, deaths, drain, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelkeep import private
from modelkeep.suitefile import read_suite_file
from modelkeep.supervisor import Suite, SuiteError, ports_from
from support.suite import toy_environment, toy_suite

#: Processes start and drain in nearly every test, on machines that may be busy.
pytestmark = pytest.mark.timeout(120)

_UP = """
import os, sys
from pathlib import Path
from modelkeep.supervisor import up
ports = dict(zip(("alpha", "beta"), map(int, sys.argv[2:] or ("0", "0"))))
sys.exit(up(Path(sys.argv[1]), ports=ports, services=("alpha", "beta"), startup_timeout_s=20,
            env={"PYTHONPATH": os.environ["PYTHONPATH"]},
            say=lambda text: print(text, flush=True)))
"""


def start_up(data_dir: Path, *ports: int, **env: str) -> subprocess.Popen[str]:
    """`up` in a process of its own, as `modelkeep up` runs it."""
    return subprocess.Popen(
        [sys.executable, "-c", _UP, str(data_dir), *map(str, ports)],
        env={**os.environ, **toy_environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until_up(data_dir: Path, supervisor: subprocess.Popen[str]) -> dict[str, int]:
    """Wait for suite.json; returns the services' pids."""
    deadline = time.monotonic() + 60
    while (said := read_suite_file(data_dir)) is None:
        assert supervisor.poll() is None, supervisor.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return dict(said.pids)


def wait_until_gone(pids: dict[str, int]) -> None:
    """Wait until none of the processes is there."""
    deadline = time.monotonic() + 40
    while any(Path(f"/proc/{pid}").exists() for pid in pids.values()):
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.02)


def test_a_suite_is_healthy_inside_and_gone_outside() -> None:
    with toy_suite() as suite:
        folder, pids = suite.data_dir, suite.pids
        for address in suite.addresses.values():
            with grpc.insecure_channel(address) as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        said = json.loads((folder / "run" / "suite.json").read_text())
        assert said["addresses"] == suite.addresses
        assert said["pids"] == pids
        assert said["pid"] == os.getpid()
        assert said["versions"]["modelkeep"]
    wait_until_gone(pids)
    assert not folder.exists()


def test_a_given_data_folder_stays_and_its_description_goes(data_dir: Path) -> None:
    with toy_suite(data_dir):
        assert read_suite_file(data_dir) is not None
    assert read_suite_file(data_dir) is None
    assert (data_dir / "logs" / "alpha.log").read_text().splitlines() == ["alpha starts", "alpha drained"]


@pytest.mark.parametrize("host", ["127.1", "2130706433", "127.0.0.01", "no.such.host.invalid"])
def test_a_host_that_is_unknown_or_spelled_oddly_is_refused_before_anything_starts(host: str) -> None:
    suite = Suite(host=host, services=("alpha",))
    with pytest.raises(SuiteError, match=r"write 127\.0\.0\.1|is unknown") as refused:
        suite.start()
    assert refused.value.exit_code == 78
    assert not suite.pids


def test_a_second_suite_on_the_data_folder_is_refused_and_told_who_is_there(data_dir: Path) -> None:
    with toy_suite(data_dir) as first:
        with pytest.raises(SuiteError, match=rf"Another suite is running on .*pid {os.getpid()}") as refused:
            toy_suite(data_dir).start()
        assert refused.value.exit_code == 1
        assert read_suite_file(data_dir) is not None, "the refused one must not remove the first one's file"
        assert all(process.returncode is None for process in first.processes.values())


def test_a_killed_service_can_be_started_again_on_its_address() -> None:
    with toy_suite() as suite:
        before = suite.addresses["alpha"], suite.pids["alpha"]
        assert suite.kill("alpha") == -signal.SIGKILL
        suite.restart("alpha")
        assert suite.addresses["alpha"] == before[0]
        assert suite.pids["alpha"] != before[1]
        described = read_suite_file(suite.data_dir)
        assert described is not None
        assert described.pids == suite.pids


def test_a_running_service_is_not_started_twice() -> None:
    with toy_suite() as suite, pytest.raises(SuiteError, match="alpha still runs"):
        suite.restart("alpha")


@pytest.mark.parametrize(("code", "passed_on"), [(65, 65), (73, 73), (78, 78), (3, 1)])
def test_a_service_that_cannot_start_passes_its_code_and_its_words_on(code: int, passed_on: int) -> None:
    suite = toy_suite(env={"TOY_BETA": f"exit:{code}"})
    with pytest.raises(SuiteError, match="beta cannot go on") as failed:
        suite.start()
    assert failed.value.exit_code == passed_on
    assert failed.value.service == "beta"
    wait_until_gone(suite.pids)


def test_a_service_that_never_gets_healthy_fails_the_start() -> None:
    suite = toy_suite(env={"TOY_BETA": "never"}, startup_timeout_s=3)
    with pytest.raises(SuiteError, match=r"beta was not healthy after 3 s"):
        suite.start()
    wait_until_gone(suite.pids)


def test_a_taken_port_is_named_with_the_remedy_before_anything_starts(
    data_dir: Path, taken_port: int
) -> None:
    with pytest.raises(SuiteError, match=rf"Port {taken_port} .* taken.* modelkeep up --port") as refused:
        toy_suite(data_dir, ports={"beta": taken_port}).start()
    assert refused.value.exit_code == 98
    assert not (data_dir / "logs" / "alpha.log").exists()


def test_a_data_folder_that_cannot_be_made_is_73(data_dir: Path) -> None:
    (data_dir / "file").write_text("in the way")
    with pytest.raises(SuiteError, match="cannot be written") as refused:
        toy_suite(data_dir / "file" / "below").start()
    assert refused.value.exit_code == 73


@pytest.mark.parametrize("file", ["run/suite.lock", "logs/beta.log"])
def test_a_file_of_the_suite_that_cannot_be_written_is_73_too(data_dir: Path, file: str) -> None:
    (data_dir / file).mkdir(parents=True)  # whoever runs the tests: nobody can write to a folder
    suite = toy_suite(data_dir)
    with pytest.raises(SuiteError, match=rf"cannot be written .*{file}.*--data-dir") as refused:
        suite.start()
    assert refused.value.exit_code == 73
    wait_until_gone(suite.pids)


def test_a_data_folder_of_a_thousand_levels_is_refused_in_words(data_dir: Path) -> None:
    with pytest.raises(SuiteError, match=r"2,0\d\d bytes.*up to 480.*--data-dir") as refused:
        toy_suite(data_dir.joinpath(*["a"] * 1000)).start()
    assert refused.value.exit_code == 73
    assert not list(data_dir.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give folders away")
@pytest.mark.parametrize("above", ["of another user", "writable by all"])
def test_a_data_folder_that_others_can_replace_is_refused_before_it_is_made(
    data_dir: Path, above: str
) -> None:
    inner = data_dir / "above" / "mine"
    inner.mkdir(parents=True)
    if above == "of another user":
        os.chown(inner.parent, 65534, 65534)
    else:
        inner.parent.chmod(0o777)
    with pytest.raises(SuiteError, match=r"can be replaced by others: .*above.*--data-dir") as refused:
        toy_suite(inner / "data").start()
    assert refused.value.exit_code == 73
    assert not list(inner.iterdir())
    inner.parent.chmod(0o1777)
    os.chown(inner.parent, 0, 0)
    with toy_suite(inner / "data"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
def test_whoever_owns_the_programs_own_files_is_trusted_with_its_folder(data_dir: Path) -> None:
    program = data_dir / "private.py"
    shutil.copy(private.__file__, program)
    (data_dir / "above").mkdir()
    os.chown(data_dir / "above", 65534, 65534)
    for owner, trusted in ((0, False), (65534, True)):
        os.chown(program, owner, owner)
        found = subprocess.run(
            [
                sys.executable,
                "-c",
                "import private, pathlib; print(private.who_may_replace(pathlib.Path('above/data')))",
            ],
            cwd=data_dir,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (found.stdout == "\n") is trusted


def test_what_does_not_drain_is_killed_after_the_time_out() -> None:
    suite = toy_suite(env={"TOY_BETA": "deaf"})
    suite.start()
    assert suite.stop(timeout_s=3) == {"alpha": 0, "beta": -signal.SIGKILL}


def test_ports_follow_the_first_one() -> None:
    assert ports_from(60051) == {"record": 60051, "download": 60052, "install": 60053, "loader": 60054}
    assert set(ports_from(0).values()) == {0}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_to_up_drains_all(data_dir: Path, signum: signal.Signals) -> None:
    supervisor = start_up(data_dir)
    pids = wait_until_up(data_dir, supervisor)
    supervisor.send_signal(signum)
    said = supervisor.communicate(timeout=60)[0]
    assert supervisor.returncode == 0, said
    assert "is up" in said
    assert f"{signum.name}: draining" in said
    assert said.endswith("Stopped.\n")
    assert "drained" in (data_dir / "logs" / "beta.log").read_text()
    wait_until_gone(pids)


def test_a_second_signal_kills_what_does_not_drain(data_dir: Path) -> None:
    supervisor = start_up(data_dir, TOY_BETA="deaf")
    pids = wait_until_up(data_dir, supervisor)
    supervisor.send_signal(signal.SIGINT)
    time.sleep(0.5)
    supervisor.send_signal(signal.SIGINT)
    said = supervisor.communicate(timeout=60)[0]
    assert supervisor.returncode == 1
    assert "killing what is left" in said
    wait_until_gone(pids)


def test_when_one_dies_its_last_lines_are_shown_and_the_rest_is_drained(data_dir: Path) -> None:
    supervisor = start_up(data_dir)
    pids = wait_until_up(data_dir, supervisor)
    os.kill(pids["beta"], signal.SIGKILL)
    said = supervisor.communicate(timeout=60)[0]
    assert supervisor.returncode == 1
    assert "beta was killed by SIGKILL; its last lines:\n  beta: beta starts" in said
    assert f"(all of it: {data_dir / 'logs' / 'beta.log'})" in said
    assert "Draining the rest." in said
    assert "alpha drained" in (data_dir / "logs" / "alpha.log").read_text()
    wait_until_gone(pids)


def test_a_signal_while_starting_ends_the_start(data_dir: Path) -> None:
    supervisor = start_up(data_dir, TOY_BETA="never")
    while not (data_dir / "logs" / "beta.log").exists():
        time.sleep(0.02)
    supervisor.send_signal(signal.SIGINT)
    said = supervisor.communicate(timeout=60)[0]
    assert supervisor.returncode == 130, said


def test_up_names_the_taken_port_and_exits_98(data_dir: Path, taken_port: int) -> None:
    supervisor = start_up(data_dir, 0, taken_port)
    said = supervisor.communicate(timeout=60)[0]
    assert supervisor.returncode == 98
    assert f"Port {taken_port}" in said


def test_a_killed_supervisor_leaves_no_services_and_a_free_folder(data_dir: Path) -> None:
    supervisor = start_up(data_dir)
    pids = wait_until_up(data_dir, supervisor)
    supervisor.kill()
    supervisor.communicate()
    wait_until_gone(pids)
    with toy_suite(data_dir) as suite:
        assert suite.pids != pids


def test_a_suite_file_that_makes_no_sense_counts_as_none(data_dir: Path) -> None:
    (data_dir / "run").mkdir()
    for nonsense in ("", "[]", "{}", '{"pid": 1}', '{"addresses": 3}', '{"addresses": null}', "[" * 100_000):
        (data_dir / "run" / "suite.json").write_text(nonsense)
        assert read_suite_file(data_dir) is None


def test_a_suite_file_of_another_version_is_read_as_far_as_it_goes(data_dir: Path) -> None:
    (data_dir / "run").mkdir()
    said = {"addresses": {"record": "a:1"}, "news": [1]}
    (data_dir / "run" / "suite.json").write_text(json.dumps(said))
    read = read_suite_file(data_dir)
    assert read is not None
    assert (read.addresses, read.sockets, read.pid) == ({"record": "a:1"}, {}, 0)


def test_stopping_what_never_started_is_harmless() -> None:
    assert Suite(services=("alpha",)).stop() == {}
