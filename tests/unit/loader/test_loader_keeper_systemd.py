"""A loader's keeper that is systemd, which the test plays: its socket, its rules, what it starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelkeep_keeper import messages
from modelkeep_loader.keepers.systemd import SystemdKeeper
from support.keepers import memory
from support.waiting import until
from support.workers import ROOT

#: A loader that tells what it found and then does what it is told, line by line.
_LOADER = """
import asyncio, json, os, sys
from modelkeep_loader.keepers.systemd import SystemdKeeper
from support.keepers import contents, memory

async def main():
    assert SystemdKeeper.is_offered()
    keeper = SystemdKeeper()
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
    found = await keeper.taken()
    told = {t.name: [t.facts.decode(), *(c.decode() for c in contents(t.descriptors))] for t in found}
    print(json.dumps(told), flush=True)
    mine = {t.name: list(t.descriptors) for t in found}
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        what, name, *texts = line
        if what == "put":
            if len(texts) > 1:
                mine[name] = [memory(text.encode()) for text in texts[1:]]
            keeper.put(name, texts[0].encode(), mine.get(name, []))
        elif what == "share":
            keeper.put(name, b"shares", mine[texts[0]])
        elif what == "pipe":
            mine.setdefault(name, [os.pipe()[0]])
            keeper.put(name, texts[0].encode(), mine[name])
        elif what == "drop":
            keeper.drop(name)
        elif what == "close":
            await keeper.close(keep=name == "keep")
        print("done", flush=True)

asyncio.run(main())
"""


class Systemd:
    """Keeps descriptors as systemd does, and starts loaders with them.

    An open file that is there already is not taken once more; a name may be there several times; what is
    called by no name that systemd allows is an error of the loader's.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(0.2)
        self.store: list[tuple[str, int]] = []

    @property
    def names(self) -> list[str]:
        """What there is."""
        return [name for name, _ in self.store]

    def read(self, most: int = 1_000_000) -> None:
        """Do what has been said until now, so many messages at most."""
        with contextlib.suppress(TimeoutError):
            for _ in range(most):
                data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 10)
                told = dict(line.split("=", 1) for line in data.decode().splitlines())
                name = told["FDNAME"]
                assert 0 < len(name) <= 255
                assert all(" " < letter < "\x7f" and letter != ":" for letter in name)
                if told.get("FDSTORE") == "1":
                    [descriptor] = descriptors
                    if any(_same(descriptor, other) for _, other in self.store):
                        os.close(descriptor)
                    else:
                        self.store.insert(0, (name, descriptor))
                else:
                    assert told["FDSTOREREMOVE"] == "1"
                    messages.close_all([other for called, other in self.store if called == name])
                    self.store = [entry for entry in self.store if entry[0] != name]

    @contextlib.contextmanager
    def loader(self) -> Iterator[Loader]:
        """A loader that is started with all that is kept; killed at the end."""
        descriptors = [os.dup(descriptor) for _, descriptor in self.store]
        count, paths = len(descriptors), (*sys.path, str(ROOT / "tests"))

        def arrange() -> None:
            high = [os.dup2(descriptor, 500 + place) for place, descriptor in enumerate(descriptors)]
            for place, descriptor in enumerate(high, 3):
                os.dup2(descriptor, place)

        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "NOTIFY_SOCKET": self.address,
            "FDSTORE": "4096",
            "LISTEN_FDS": str(count),
            "LISTEN_FDNAMES": ":".join(self.names),
        }
        environment.pop("SYSTEMD_EXEC_PID", None)
        with subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", sys.executable, "-P", "-c", _LOADER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=arrange,
            pass_fds=range(3, 3 + count),
        ) as process:
            messages.close_all(descriptors)
            try:
                yield Loader(process)
            finally:
                process.kill()

    def close(self) -> None:
        """Give everything back."""
        messages.close_all([descriptor for _, descriptor in self.store])
        self._socket.close()


class Loader:
    """The loader of a test, and what it found."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.found: dict[str, Any] = json.loads(process.stdout.readline())

    def do(self, *lines: str, wait: bool = True) -> None:
        """Have it do something; `wait` until it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for line in lines:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
            if wait:
                assert self.process.stdout.readline() == "done\n"


def _same(one: int, other: int) -> bool:
    """Whether two descriptors are of one open file: a position set through one is the other's, too."""
    if os.fstat(one) != os.fstat(other):
        return False
    try:
        before = os.lseek(one, 0, os.SEEK_CUR)
        os.lseek(one, before + 1, os.SEEK_SET)
        moved = os.lseek(other, 0, os.SEEK_CUR)
        os.lseek(one, before, os.SEEK_SET)
    except OSError:  # a pipe; the test has but one open file of each
        return True
    return moved == before + 1


@pytest.fixture(params=["file", "abstract"])
def systemd(data_dir: Path, request: pytest.FixtureRequest) -> Iterator[Systemd]:
    made = Systemd(f"@{data_dir}" if request.param == "abstract" else str(data_dir / "notify"))
    yield made
    made.close()


def test_the_next_start_finds_what_the_one_before_had(systemd: Systemd) -> None:
    with systemd.loader() as loader:
        assert loader.found == {}
        loader.do("put resident/1 facts1 one", "put resident/2 facts2 two zwei", "put lease/1 facts3")
        systemd.read()
    with systemd.loader() as loader:
        assert loader.found == {
            "resident/1": ["facts1", "one"],
            "resident/2": ["facts2", "two", "zwei"],
            "lease/1": ["facts3"],
        }
        assert list(loader.found) == ["resident/1", "resident/2", "lease/1"]
        loader.do("put resident/1 again", "drop resident/2", "put späßchen:#@%/1 odd")
        systemd.read()
        assert len(systemd.store) == 4
    with systemd.loader() as loader:
        assert loader.found == {
            "lease/1": ["facts3"],
            "resident/1": ["again", "one"],
            "späßchen:#@%/1": ["odd"],
        }
        loader.do("close keep")
        systemd.read()
    with systemd.loader() as loader:
        assert len(loader.found) == 3
        loader.do("close not")
        systemd.read()
        assert systemd.store == []


def test_what_two_things_share_stays_until_neither_needs_it(systemd: Systemd) -> None:
    with systemd.loader() as loader:
        loader.do("put a facts shared", "share b a", "put a new other")
        systemd.read()
        assert len(systemd.store) == 4
    with systemd.loader() as loader:
        assert loader.found == {"a": ["new", "other"], "b": ["shares", "shared"]}
        loader.do("share a b", "drop b")
        systemd.read()
    with systemd.loader() as loader:
        assert loader.found == {"a": ["shares", "shared"]}
        loader.do("drop a")
        systemd.read()
        assert systemd.store == []


def test_what_is_no_file_is_a_descriptor_of_its_thing_and_stays_over_new_facts(systemd: Systemd) -> None:
    with systemd.loader() as loader:
        loader.do("pipe vram/1 one", "pipe vram/1 two", "pipe vram/2 three")
        systemd.read()
        assert sorted(systemd.names) == ["vram/1#1@0", "vram/1#2", "vram/2#3", "vram/2#3@0"]
        loader.do("drop vram/1")
        systemd.read()
        assert sorted(systemd.names) == ["vram/2#3", "vram/2#3@0"]


def test_half_of_a_step_is_not_there_and_is_cleared_away(systemd: Systemd) -> None:
    with systemd.loader() as loader:
        loader.do("put a one first", "put b whole alone")
        systemd.read()
        loader.do("put a two second", "put c three third")
    systemd.read(2)  # of the new a the memory and the facts, and then the loader was killed
    assert len(systemd.store) == 6
    systemd.store = [entry for entry in systemd.store if not entry[0].startswith("b#")]
    while not _is_silent(systemd):
        pass
    systemd.store.append(("socket-of-the-unit", os.open(os.devnull, os.O_RDONLY)))
    with systemd.loader() as loader:
        assert loader.found == {"a": ["two", "second"]}
        systemd.read()
        assert len(systemd.store) == 3
        assert "socket-of-the-unit" in systemd.names


def _is_silent(systemd: Systemd) -> bool:
    """Throw away what was said and not read."""
    with contextlib.suppress(TimeoutError):
        _, descriptors, _, _ = socket.recv_fds(systemd._socket, 4096, 10)
        messages.close_all(descriptors)
        return False
    return True


@pytest.mark.parametrize("messages_read", [0, 7, 40, 111])
def test_a_slow_systemd_is_waited_for_and_a_kill_meanwhile_leaves_things_whole(
    systemd: Systemd, messages_read: int
) -> None:
    with systemd.loader() as loader:
        lines = [f"put t/{number % 10} f{number} w{number}" for number in range(60)]
        loader.do(*lines)
        systemd.read(messages_read)
    while not _is_silent(systemd):
        pass
    with systemd.loader() as loader:
        for name, (facts, weights) in loader.found.items():
            assert facts[1:] == weights[1:]
            assert int(facts[1:]) % 10 == int(name[2:])
        systemd.read()
        assert len(systemd.store) == 2 * len(loader.found)
        loader.do(*lines)
        systemd.read()
        loader.do("close keep", wait=False)
        systemd.read()
    with systemd.loader() as loader:
        assert loader.found == {f"t/{n % 10}": [f"f{n}", f"w{n}"] for n in range(50, 60)}


def test_it_is_offered_to_the_main_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"NOTIFY_SOCKET": "/run/systemd/notify", "FDSTORE": "64"}
    assert SystemdKeeper.is_offered(good)
    assert SystemdKeeper.is_offered({**good, "SYSTEMD_EXEC_PID": str(os.getpid())})
    for bad in ({"SYSTEMD_EXEC_PID": "1"}, {"FDSTORE": "0"}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"FDSTORE": ""}):
        assert not SystemdKeeper.is_offered({**good, **bad})
    assert not SystemdKeeper.is_offered({})
    environment = {**good, "LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a#1:b#1"}
    SystemdKeeper(environment)
    assert environment == good


async def test_one_that_begins_anew_is_reached_again(data_dir: Path) -> None:
    systemd = Systemd(str(data_dir / "notify"))
    keeper = SystemdKeeper({"NOTIFY_SOCKET": systemd.address})
    assert await keeper.taken() == []
    weights = memory()
    keeper.put("a", b"", [weights])
    await asyncio.to_thread(systemd.read)
    systemd.close()
    keeper.put("b", b"", [weights])
    (data_dir / "notify").unlink()
    systemd = Systemd(systemd.address)
    await until(lambda: keeper._link is not None and not keeper._unsaid)
    await asyncio.to_thread(systemd.read)
    assert "b#2" in systemd.names
    await keeper.close(keep=True)
    os.close(weights)
    systemd.close()
