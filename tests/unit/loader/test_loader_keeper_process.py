"""A loader's keeper that is a process: kills and hangs on either side, and what there is afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelkeep import sealed
from modelkeep_keeper import messages
from modelkeep_keeper.messages import Kind
from modelkeep_loader.domain.keeping import KeptThing
from modelkeep_loader.keepers import process as process_module
from modelkeep_loader.keepers.process import ProcessKeeper
from support.keepers import contents, is_closed, keeper_at, listed, memory, put, stop
from support.processes import processes_of
from support.waiting import until
from support.workers import ROOT

#: A loader that has things kept, and says what it found and what it put.
_LOADER = """
import asyncio, os, sys
from pathlib import Path
from modelkeep_loader.keepers.process import ProcessKeeper
from support.keepers import memory

async def main(folder, first, last):
    keeper = ProcessKeeper(folder / "kp.sock", keep_s=30, log=folder / "keeper.log")
    print(len(await keeper.taken()), flush=True)
    for number in range(int(first), int(last)):
        weights = memory(b"weights %d" % number)
        keeper.put(f"resident/{number}", b"facts %d" % number, [weights])
        os.close(weights)
        print(number, flush=True)
    await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""


class Keepers:
    """Keepers of one place, one after the other, as loaders have them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "kp.sock"
        self._made: list[ProcessKeeper] = []

    async def open(
        self, *, own: bool = True, patience_s: float = 30
    ) -> tuple[ProcessKeeper, list[KeptThing]]:
        """One more, and what it found."""
        log = self.folder / "keeper.log"
        keeper = ProcessKeeper(self.socket, keep_s=30, log=log if own else None, patience_s=patience_s)
        self._made.append(keeper)
        return keeper, await keeper.taken()

    async def look(self) -> dict[str, tuple[bytes, list[bytes]]]:
        """What a loader would find that is started now; it takes the place of the one that is there."""
        keeper, found = await self.open()
        await keeper.close(keep=True)
        return read(found)

    def stranger(self) -> socket.socket:
        """A connection to the keeper that is there."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.settimeout(20)
        link.connect(str(self.socket))
        return link

    def pids(self) -> list[int]:
        """The keepers that run there."""
        found = []
        for pid in processes_of("TMPDIR", os.environ["TMPDIR"]):
            with contextlib.suppress(OSError):
                if str(self.socket).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    @contextlib.contextmanager
    def loader(self, first: int, last: int) -> Iterator[subprocess.Popen[bytes]]:
        """A process that has so many things kept; killed at the end."""
        paths = (*sys.path, str(ROOT / "tests"))
        with subprocess.Popen(
            [sys.executable, "-P", "-c", _LOADER, str(self.folder), str(first), str(last)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            stdout=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    async def close(self) -> None:
        """End them all, and what they started."""
        for keeper in self._made:
            await keeper.close(keep=False)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def keepers(data_dir: Path) -> AsyncIterator[Keepers]:
    made = Keepers(data_dir)
    yield made
    await made.close()


def read(found: list[KeptThing]) -> dict[str, tuple[bytes, list[bytes]]]:
    """Names, facts and what is in the memory of things; they are closed."""
    told = {thing.name: (thing.facts, contents(thing.descriptors)) for thing in found}
    for thing in found:
        messages.close_all(thing.descriptors)
    return told


def said_by(process: subprocess.Popen[bytes], lines: int) -> list[int]:
    """So many numbers that a loader says."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(lines)]


async def test_a_loader_that_was_killed_finds_what_it_had(keepers: Keepers) -> None:
    with keepers.loader(0, 20) as process:
        await asyncio.to_thread(said_by, process, 21)
        process.kill()
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.read) == b""  # the keeper has no pipe of the loader's
    with keepers.loader(20, 25) as process:
        assert (await asyncio.to_thread(said_by, process, 6))[0] == 20
    found = await keepers.look()
    assert list(found) == [f"resident/{number}" for number in range(25)]
    assert found["resident/7"] == (b"facts 7", [b"weights 7"])
    assert len(keepers.pids()) == 1


async def test_a_kill_right_after_the_first_component_loses_nothing(keepers: Keepers) -> None:
    with keepers.loader(0, 1) as process:
        await asyncio.to_thread(said_by, process, 2)
        process.kill()
    assert await keepers.look() == {"resident/0": (b"facts 0", [b"weights 0"])}


async def test_a_keeper_is_there_before_anything_is_put_and_ends_where_nothing_was(keepers: Keepers) -> None:
    keeper, found = await keepers.open()
    assert found == []
    assert keepers.pids() == [keeper.pid]
    for number in range(50):
        keeper.drop(f"never put/{number}")
    await keeper.close(keep=False)
    assert keepers.pids() == []
    assert [path.name for path in keepers.folder.iterdir()] == ["keeper.log"]


@pytest.mark.parametrize("keep", [False, True])
async def test_a_clean_end_gives_back_or_keeps_as_it_is_told(keepers: Keepers, keep: bool) -> None:
    keeper, _ = await keepers.open()
    mine = memory(b"one")
    others = sealed.open_readonly(mine)
    keeper.put("resident/1", b"facts", [others])
    keeper.put("lease/1", b"no descriptor")
    os.close(others)
    assert sealed.in_use_elsewhere(mine)
    await keeper.close(keep=keep)
    keeper.put("late", b"")
    keeper.drop("resident/1")
    assert sealed.in_use_elsewhere(mine) == keep
    if keep:
        assert await keepers.look() == {
            "resident/1": (b"facts", [b"one"]),
            "lease/1": (b"no descriptor", []),
        }
    else:
        assert keepers.pids() == []
        assert [path.name for path in keepers.folder.iterdir()] == ["keeper.log"]
        assert "given back" in (keepers.folder / "keeper.log").read_text()
    os.close(mine)


async def test_what_is_kept_and_found_is_the_loaders_own_open_file(keepers: Keepers) -> None:
    keeper, _ = await keepers.open()
    mine = memory()
    keeper.put("resident/1", b"", [mine])
    await keeper.close(keep=True)
    assert not sealed.in_use_elsewhere(mine)
    os.close(mine)
    keeper, [thing] = await keepers.open()
    assert not sealed.in_use_elsewhere(thing.descriptors[0])
    workers = sealed.open_readonly(thing.descriptors[0])
    keeper.put("resident/1", b"renewed", thing.descriptors)
    assert sealed.in_use_elsewhere(thing.descriptors[0])
    os.close(workers)
    assert not sealed.in_use_elsewhere(thing.descriptors[0])
    messages.close_all(thing.descriptors)


async def test_a_stopped_keeper_holds_up_nothing_and_is_told_the_end_of_it(keepers: Keepers) -> None:
    keeper, _ = await keepers.open()
    keeper.put("a", b"first")
    await until(lambda: keeper.pid)
    stop(keeper.pid)
    weights = memory()
    longest = 0.0
    for number in range(3000):
        began = time.perf_counter()
        keeper.put(f"b/{number % 40}", b"%d" % number, [weights])
        if number % 7 == 0:
            keeper.drop(f"b/{number % 40}")
        longest = max(longest, time.perf_counter() - began)
    keeper.put("a", b"last")
    assert longest < 0.5  # and not for as long as the keeper is stopped, which would be for ever
    assert len(os.listdir("/proc/self/fd")) < 200  # one of each name waits, and not 3,000
    os.kill(keeper.pid, signal.SIGCONT)
    await keeper.close(keep=True)
    found = await keepers.look()
    expected = {f"b/{number % 40}": b"%d" % number for number in range(2960, 3000) if number % 7}
    assert {name: facts for name, (facts, _) in found.items()} == {"a": b"last", **expected}
    os.close(weights)


async def test_the_successor_of_a_killed_keeper_gets_everything_anew(keepers: Keepers) -> None:
    keeper, _ = await keepers.open()
    keeper.put("found", b"by the next")
    await keeper.close(keep=True)
    keeper, found = await keepers.open()
    assert list(read(found)) == ["found"]
    keeper.put("put", b"by the next")
    keeper.put("dropped", b"")
    keeper.drop("dropped")
    [first] = keepers.pids()
    os.kill(first, signal.SIGKILL)
    await until(lambda: keeper.pid)
    keeper.put("afterwards", b"")
    await keeper.close(keep=True)
    assert list(await keepers.look()) == ["found", "put", "afterwards"]


@pytest.mark.parametrize("seed", range(3))
async def test_whenever_the_keeper_is_struck_the_next_loader_finds_what_was_put_last(
    keepers: Keepers, seed: int
) -> None:
    luck = random.Random(seed)
    expected: dict[str, bytes] = {}
    keeper, _ = await keepers.open()
    blows = {luck.randrange(300): luck.choice([signal.SIGKILL, signal.SIGTERM]) for _ in range(3)}
    for step in range(300):
        name = f"thing/{luck.randrange(30)}"
        if luck.random() < 0.25:
            keeper.drop(name)
            expected.pop(name, None)
        else:
            expected[name] = b"%d" % step
            keeper.put(name, expected[name])
        if step in blows and keeper.pid:
            os.kill(keeper.pid, blows[step])
        if luck.random() < 0.1:
            await asyncio.sleep(luck.random() / 50)
    await until(lambda: keeper.pid)
    await keeper.close(keep=True)
    assert {name: facts for name, (facts, _) in (await keepers.look()).items()} == expected


@pytest.mark.parametrize("when", ["while it reads nothing", "at the start", "at the end"])
async def test_a_keeper_that_hangs_is_ended(
    keepers: Keepers, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(process_module, "_ANSWER_S", 0.5)
    mine = memory()
    others = sealed.open_readonly(mine)
    keeper, _ = await keepers.open(patience_s=3)
    keeper.put("a", b"", [others])
    os.close(others)
    await until(lambda: keeper.pid)
    first = keeper.pid
    if when == "at the start":
        await keeper.close(keep=True)
    stop(first)
    if when == "while it reads nothing":
        for number in range(600):  # more than the kernel queues
            keeper.put(f"b/{number}", b"")
        await until(lambda: keeper.pid not in (0, first))
        await keeper.close(keep=True)
        assert len(await keepers.look()) == 601
    elif when == "at the start":
        assert await keepers.look() == {}
        assert not sealed.in_use_elsewhere(mine)
    else:
        await keeper.close(keep=False)
        assert not sealed.in_use_elsewhere(mine)
    assert first not in keepers.pids()
    os.close(mine)


async def test_a_keeper_of_somebody_elses_is_waited_for_and_never_started(
    keepers: Keepers, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, found = await keepers.open(own=False)
    assert found == []
    assert "no keeper at" in caplog.text
    keeper.put("a", b"before it was there")
    with keeper_at(keepers.folder, "--stay") as process:
        await until(lambda: "came" in process.said())
        keeper.put("b", b"")
        await keeper.close(keep=True)
        with process.connect() as link:
            assert list(listed(link)) == ["a", "b"]
        keeper, found = await keepers.open(own=False)
        assert list(read(found)) == ["a", "b"]
        await keeper.close(keep=False)
        with process.connect() as link:
            assert list(listed(link)) == []
        assert process.process.poll() is None


async def test_another_users_keeper_is_told_nothing(
    keepers: Keepers, caplog: pytest.LogCaptureFixture
) -> None:
    keepers.folder.chmod(0o777)
    code = """
import os, socket
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind("kp.sock")
listener.listen()
print("listens", flush=True)
print(listener.accept()[0].recv(100), flush=True)
"""
    command = [sys.executable, "-c", code]
    other = await asyncio.to_thread(
        lambda: subprocess.Popen(command, stdout=subprocess.PIPE, cwd=keepers.folder)
    )
    with other:
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == b"listens\n"
        keeper, found = await keepers.open(own=False)
        keeper.put("a", b"secret")
        assert found == []
        assert "another user (uid 65534)" in caplog.text
        assert await asyncio.to_thread(other.stdout.readline) == b"b''\n"


async def test_what_a_stranger_puts_is_no_loaders_and_is_dropped(keepers: Keepers) -> None:
    keeper, _ = await keepers.open()
    keeper.put("a", b"")
    await until(lambda: keeper.pid)
    with keepers.stranger() as link:
        put(link, "of nobody")
        assert await asyncio.to_thread(is_closed, link)  # the loader has taken its place again
    keeper.put("b", b"")
    await keeper.close(keep=True)
    with keepers.stranger() as link:
        assert list(listed(link)) == ["a", "b"]


async def test_facts_that_are_none_are_dropped_and_said(
    keepers: Keepers, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, _ = await keepers.open()
    keeper.put("good", b"facts")
    await keeper.close(keep=True)
    pipe = os.pipe()
    with keepers.stranger() as link:
        messages.send(link, Kind.PUT, "bad", pipe)
    messages.close_all(pipe)
    assert list(await keepers.look()) == ["good"]
    assert "'bad' is not found again" in caplog.text
    caplog.clear()
    assert list(await keepers.look()) == ["good"]
    assert "bad" not in caplog.text


async def test_put_raises_nothing(keepers: Keepers, caplog: pytest.LogCaptureFixture) -> None:
    keeper, _ = await keepers.open()
    keeper.put("n" * 201, b"")
    keeper.put("", b"")
    keeper.put("closed", b"", [987_654])
    keeper.put("many", b"", [0] * 253)
    keeper.put("one", b"facts")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    await until(lambda: keeper.pid)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    try:
        spare = []
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.open(os.devnull, os.O_RDONLY))
        keeper.put("two", b"once there is room again")
        keeper.put("three", b"not at all", [0])
        messages.close_all(spare)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await keeper.close(keep=True)
    assert list(await keepers.look()) == ["one", "two"]
    assert caplog.text.count("is not kept") == 5


@pytest.mark.parametrize("moment_ms", [0, 5, 20, 60, 300])
async def test_a_kill_at_any_moment_leaves_things_whole_and_no_keeper_for_ever(
    keepers: Keepers, moment_ms: int
) -> None:
    with keepers.loader(0, 10_000) as process:
        await asyncio.to_thread(said_by, process, 1)
        await asyncio.sleep(moment_ms / 1000)
        process.kill()
        assert process.stdout is not None
        said = (await asyncio.to_thread(process.stdout.read)).split()
    found = await keepers.look()
    # What was put waits in the kernel, or for a keeper that has read no more than that yet.
    assert found or not said
    assert list(found) == [f"resident/{number}" for number in range(len(found))]
    assert len(found) <= len(said) + 2
    assert {name: (b"facts %d" % n, [b"weights %d" % n]) for n, name in enumerate(found)} == found
    last, _ = await keepers.open()
    await last.close(keep=False)
    await until(lambda: keepers.pids() == [])  # a process ends a moment after it has let go of its place
