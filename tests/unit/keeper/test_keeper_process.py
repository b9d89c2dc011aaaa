"""The keeper: what it keeps, for whom, for how long, and what it survives; real processes and kills."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep import sealed
from modelkeep.defaults import EXIT_ADDRESS_TAKEN
from modelkeep_keeper import messages
from modelkeep_keeper.messages import Kind
from support.keepers import KeeperProcess, is_closed, keeper_at, listed, memory, put
from support.waiting import wait_until
from support.workers import ROOT

#: Puts things, numbered on and on, and says each before it does.
_PUTS = """
import sys, itertools, os
from modelkeep_keeper import messages
from modelkeep_keeper.messages import Kind
from support.keepers import memory
import socket
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect(sys.argv[1])
for number in itertools.count():
    both = [memory(b"facts %d" % number), memory(b"weights %d" % number)]
    os.write(1, b"%d\\n" % number)
    messages.send(link, Kind.PUT, f"thing/{number % 50}", both)
    messages.close_all(both)
"""


@pytest.fixture
def keeper(folder: Path) -> Iterator[KeeperProcess]:
    with keeper_at(folder, "--linger", "30") as started:
        yield started


@contextlib.contextmanager
def putting(keeper: KeeperProcess) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has things kept, on and on."""
    keeper.connect().close()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _PUTS, str(keeper.socket)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (*sys.path, str(ROOT / "tests")) if p)},
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_what_was_put_outlives_whoever_put_it(keeper: KeeperProcess) -> None:
    with keeper.connect() as first:
        put(first, "resident/1", b"one")
        both = [memory(b"facts"), memory(b"weights")]
        messages.send(first, Kind.PUT, "resident/2", both)
        messages.close_all(both)
    with keeper.connect() as second:
        assert listed(second) == {"resident/1": [b"one"], "resident/2": [b"facts", b"weights"]}


def test_a_name_has_what_was_put_last_or_nothing_once_it_is_dropped(keeper: KeeperProcess) -> None:
    with keeper.connect() as link:
        put(link, "a", b"old")
        put(link, "b", b"stays")
        put(link, "a", b"new")
        assert listed(link) == {"a": [b"new"], "b": [b"stays"]}
        messages.send(link, Kind.DROP, "a")
        messages.send(link, Kind.DROP, "never there")
        assert listed(link) == {"b": [b"stays"]}


def test_what_is_kept_is_the_loaders_own_open_file_and_counts_as_no_other(keeper: KeeperProcess) -> None:
    mine = memory()
    with keeper.connect() as link:
        messages.send(link, Kind.PUT, "a", [mine])
        listed(link)  # it has it by now
        assert not sealed.in_use_elsewhere(mine)
        workers = sealed.open_readonly(mine)
        assert sealed.in_use_elsewhere(mine)
        os.close(mine)
        messages.send(link, Kind.LIST)
        taken = messages.receive(link)
        assert taken is not None
        assert sealed.in_use_elsewhere(taken.descriptors[0])
        os.close(workers)
        assert not sealed.in_use_elsewhere(taken.descriptors[0])
        messages.close_all(taken.descriptors)


def test_without_a_next_loader_everything_is_given_back_and_nothing_stays_behind(folder: Path) -> None:
    with keeper_at(folder, "--linger", "0.3") as keeper:
        mine = memory()
        others = sealed.open_readonly(mine)
        with keeper.connect() as link:
            messages.send(link, Kind.PUT, "a", [others])
            listed(link)
        os.close(others)
        assert sealed.in_use_elsewhere(mine)
        assert keeper.ended() == 0
        assert not sealed.in_use_elsewhere(mine)
        assert not keeper.socket.exists()
        assert not keeper.socket.with_suffix(".lock").exists()
        assert "given back" in keeper.said()


def test_it_waits_for_any_number_of_seconds_and_for_nothing_else(folder: Path) -> None:
    with keeper_at(folder, "--linger", "1e300") as keeper:
        with keeper.connect() as link:
            put(link, "a")
        with keeper.connect() as link:
            assert list(listed(link)) == ["a"]
    for no_time in ("inf", "nan", "-1"):
        with keeper_at(folder, f"--linger={no_time}") as keeper:
            assert keeper.ended() == 2
            assert f"must be a number of seconds from 0, not {no_time}" in keeper.said()


@pytest.mark.parametrize("how", ["END", "SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_its_end_gives_everything_back(folder: Path, how: str) -> None:
    with keeper_at(folder, "--linger", "30") as keeper:
        mine = memory()
        others = sealed.open_readonly(mine)
        with keeper.connect() as link:
            messages.send(link, Kind.PUT, "a", [others])
            listed(link)
            os.close(others)
            assert sealed.in_use_elsewhere(mine)
            if how == "END":
                messages.send(link, Kind.END)
                assert is_closed(link)
                assert not sealed.in_use_elsewhere(mine)  # and not only once the process has gone
            else:
                keeper.process.send_signal(signal.Signals[how])
            assert keeper.ended() == (-signal.SIGKILL if how == "SIGKILL" else 0)
        assert not sealed.in_use_elsewhere(mine)
        assert keeper.socket.exists() == (how == "SIGKILL")


def test_the_place_of_a_dead_keeper_is_taken_and_that_of_a_living_one_is_not(folder: Path) -> None:
    with keeper_at(folder) as first:
        first.connect().close()
        with keeper_at(folder) as second:
            assert second.ended() == EXIT_ADDRESS_TAKEN
        assert f"another keeper (process {first.process.pid}) has {first.socket}" in first.said()
        with first.connect() as link:
            assert listed(link) == {}
        first.kill()
        with keeper_at(folder) as third, third.connect() as link:
            assert listed(link) == {}


def test_the_loader_that_came_last_is_heard_and_what_the_one_before_said_counts(
    keeper: KeeperProcess,
) -> None:
    with keeper.connect() as first:
        listed(first)
        put(first, "a", b"of the first")
        with keeper.connect() as second:
            assert listed(second) == {"a": [b"of the first"]}
            assert is_closed(first)
            put(second, "b", b"of the second")
            assert listed(second) == {"a": [b"of the first"], "b": [b"of the second"]}


def test_what_a_loader_said_counts_that_went_without_reading_its_answers(keeper: KeeperProcess) -> None:
    with keeper.connect() as first:
        for number in range(5):
            put(first, f"a/{number}")
        messages.send(first, Kind.LIST)
        assert first.recv(1, socket.MSG_PEEK) == Kind.THING.value
        os.kill(keeper.process.pid, signal.SIGSTOP)
        put(first, "said last")
    keeper.process.send_signal(signal.SIGCONT)
    with keeper.connect() as second:
        assert len(listed(second)) == 6


def test_a_loader_that_does_not_read_what_it_asked_for_holds_up_no_other(keeper: KeeperProcess) -> None:
    with keeper.connect() as first:
        for number in range(600):
            put(first, f"a/{number}")
        messages.send(first, Kind.LIST)
        put(first, "b", b"beside it")
        with keeper.connect() as second:
            assert len(listed(second)) == 601


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        (b"x", 0),
        (b"P", 1),
        (b"Pname", 0),
        (b"P" + b"n" * 201, 1),
        (b"P" + b"n" * 100_000, 0),
        (b"P\xff\xfe", 1),
        (b"Dname", 1),
        (b"D", 0),
        (b"Lname", 0),
        (b"Tname", 1),
        (b"A", 0),
        (b"\x00" * 50, 3),
    ],
)
def test_garbage_ends_its_connection_and_costs_nothing_that_is_kept(
    keeper: KeeperProcess, data: bytes, descriptors: int
) -> None:
    with keeper.connect() as link:
        put(link, "a", b"kept")
        socket.send_fds(link, [data], [0] * descriptors)
        assert is_closed(link)
    with keeper.connect() as link:
        assert listed(link) == {"a": [b"kept"]}
    before = len(os.listdir(f"/proc/{keeper.process.pid}/fd"))
    for _ in range(20):
        with keeper.connect() as link:
            socket.send_fds(link, [data], [0] * descriptors)
            assert is_closed(link)
    assert len(os.listdir(f"/proc/{keeper.process.pid}/fd")) <= before
    assert "the connection ends" in keeper.said()


def test_out_of_descriptors_it_says_so_keeps_what_it_has_and_takes_on_once_there_is_room(
    folder: Path,
) -> None:
    with keeper_at(folder, open_files=64) as keeper, keeper.connect() as link:
        for number in range(100):
            put(link, f"a/{number}", b"%d" % number)
        kept = listed(link)
        assert 20 <= len(kept) <= 40
        assert list(kept) == [f"a/{number}" for number in range(len(kept))]
        assert f"'a/{len(kept)}' is not kept: out of descriptors" in keeper.said()
        put(link, "a/0", b"instead")
        assert listed(link)["a/0"] == [b"instead"]
        messages.send(link, Kind.PUT, "many", [0] * 200)
        assert listed(link).keys() == kept.keys()
        for name in kept:
            messages.send(link, Kind.DROP, name)
        put(link, "room")
        assert list(listed(link)) == ["room"]


def test_one_that_stays_gives_back_and_waits_for_the_next_loader(folder: Path) -> None:
    with keeper_at(folder, "--linger", "0.2", "--stay") as keeper:
        with keeper.connect() as link:
            put(link, "a")
            messages.send(link, Kind.END)
            assert is_closed(link)
        with keeper.connect() as link:
            assert listed(link) == {}
            put(link, "b")
        wait_until(lambda: "no loader came" in keeper.said())
        with keeper.connect() as link:
            assert listed(link) == {}
        assert keeper.process.poll() is None


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_of_whoever_puts_leaves_each_thing_whole(keeper: KeeperProcess, seed: int) -> None:
    with putting(keeper) as process:
        assert process.stdout is not None
        for _ in range(60 + 37 * seed):
            said = int(process.stdout.readline())
        process.kill()
        process.wait()
        last = max([said, *(int(line) for line in process.stdout.read().splitlines())])
    with keeper.connect() as link:
        found = listed(link)
    assert len(found) == 50
    for name, (facts, weights) in found.items():
        number = int(facts.split()[1])
        assert weights == b"weights %d" % number
        assert name == f"thing/{number % 50}"
        assert last - 51 <= number <= last


def test_whoever_puts_may_be_stopped_while_the_keeper_serves_others(keeper: KeeperProcess) -> None:
    with putting(keeper) as process:
        assert process.stdout is not None
        for _ in range(80):
            process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        with keeper.connect() as link:
            assert len(listed(link)) == 50


def test_another_user_is_not_heard(keeper: KeeperProcess) -> None:
    with keeper.connect() as link:
        put(link, "a")
        for place in (keeper.socket.parent, keeper.socket):
            place.chmod(0o777)
        code = """
import os, socket
os.setuid(65534)
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect("kp.sock")
try:
    link.send(b"L")
    print(link.recv(100))
except OSError as error:
    print(error)
"""
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, capture_output=True, cwd=keeper.socket.parent, check=True)
        assert b"T" not in run.stdout
        assert list(listed(link)) == ["a"]  # who was there still is
    assert "of the user 65534: this keeper is" in keeper.said()


def test_it_is_small_and_brings_nothing_along(keeper: KeeperProcess) -> None:
    with keeper.connect() as link:
        for number in range(1000):
            put(link, f"a/{number}")
        assert len(listed(link)) == 1000
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{keeper.process.pid}/status").read_text().splitlines()
    )
    assert int(status["VmRSS"].split()[0]) < 25_000  # kB
    assert status["Threads"].strip() == "1"
    maps = Path(f"/proc/{keeper.process.pid}/maps").read_text()
    assert not [name for name in ("grpc", "pydantic", "_asyncio", "torch") if name in maps]
