"""The loader's own digests: each file is read once, and no longer than somebody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from modelkeep.exceptions import CancelledException, InvalidModelException
from modelkeep_common.digests import digest_descriptor
from modelkeep_loader.domain.components import SourceFile
from modelkeep_loader.domain.digests import Digester, Reading

CONTENT = b"x" * 100_000


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def source(tmp_path: Path) -> Callable[[], SourceFile]:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return lambda: SourceFile.of(path, "model", path.stat())


class Slow:
    """Reads only when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let, self.begun, self.stopped = threading.Event(), 0, 0
        monkeypatch.setattr("modelkeep_loader.domain.digests.digest_descriptor", self.digest)

    def digest(self, fd: int, *, stop: Callable[[], bool], **more: Any) -> Any:
        self.begun += 1
        while not self.let.wait(0.005):
            if stop():
                self.stopped += 1
                break
        return digest_descriptor(fd, stop=stop, **more)

    async def until(self, said: Callable[[], bool]) -> None:
        for _ in range(2000):
            if said():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it does not come")


async def test_a_file_is_read_once_for_all_who_ask(
    source: Callable[[], SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, digester, file = Slow(monkeypatch), Digester(opened), await asyncio.to_thread(source)
    readings = [Reading(), Reading()]
    both = [asyncio.ensure_future(digester.digest(file, with_sha256=False, reading=r)) for r in readings]
    await slow.until(lambda: slow.begun == 1)
    both[0].cancel()  # the other goes on
    slow.let.set()
    assert (await both[1]).digests.blake3 == blake3(CONTENT).hexdigest()
    again = Reading()
    assert (await digester.digest(file, with_sha256=False, reading=again)).digests.sha256 == ""
    assert (slow.begun, slow.stopped, again.done) == (1, 0, len(CONTENT))
    assert (await digester.digest(file, with_sha256=True, reading=again)).digests.sha256
    assert slow.begun == 2


async def test_when_nobody_waits_any_more_the_reading_stops_and_can_begin_anew(
    source: Callable[[], SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, digester, file = Slow(monkeypatch), Digester(opened), await asyncio.to_thread(source)
    first = asyncio.ensure_future(digester.digest(file, with_sha256=False, reading=Reading()))
    await slow.until(lambda: slow.begun == 1)
    first.cancel()
    await slow.until(lambda: slow.stopped == 1)
    slow.let.set()
    known = await digester.digest(file, with_sha256=False, reading=Reading())
    assert known.digests.size_bytes == len(CONTENT)
    slow.let.clear()
    waits = asyncio.ensure_future(digester.digest(file, with_sha256=True, reading=Reading()))
    await slow.until(lambda: slow.begun == 3)
    digester.close()
    with pytest.raises(CancelledException):
        await waits


async def test_no_more_than_two_files_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, digester = Slow(monkeypatch), Digester(opened)

    def make(number: int) -> SourceFile:
        path = tmp_path / str(number)
        path.write_bytes(CONTENT)
        return SourceFile.of(path, "model", path.stat())

    files = [await asyncio.to_thread(make, n) for n in range(5)]
    work = [asyncio.ensure_future(digester.digest(f, with_sha256=False, reading=Reading())) for f in files]
    await slow.until(lambda: slow.begun == 2)
    await asyncio.sleep(0.1)
    assert slow.begun == 2
    slow.let.set()
    await asyncio.gather(*work)


async def test_what_is_another_file_by_now_has_no_digest(source: Callable[[], SourceFile]) -> None:
    digester, file = Digester(opened), await asyncio.to_thread(source)
    await asyncio.to_thread(file.path.write_bytes, CONTENT)
    await asyncio.to_thread(os.utime, file.path, (1, 1))
    with pytest.raises(InvalidModelException, match="Ask again"):
        await digester.digest(file, with_sha256=False, reading=Reading())


async def test_a_file_that_was_just_written_is_not_read_in_the_same_tick(
    source: Callable[[], SourceFile],
) -> None:
    # A second change within the clock's tick would leave the same time, and the digest of the first.
    file = await asyncio.to_thread(source)
    await Digester(opened).digest(file, with_sha256=False, reading=Reading())
    assert time.time_ns() - file.change_time_ns >= 50_000_000


async def test_a_digest_that_is_not_relied_on_any_more_is_computed_anew(
    source: Callable[[], SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, digester, file = Slow(monkeypatch), Digester(opened), await asyncio.to_thread(source)
    slow.let.set()
    for _ in range(2):
        await digester.digest(file, with_sha256=False, reading=Reading())
    assert slow.begun == 1
    digester.forget(file)
    await digester.digest(file, with_sha256=False, reading=Reading())
    assert slow.begun == 2


async def test_files_whose_reading_hangs_keep_no_other_waiting_once_nobody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, begun = threading.Event(), threading.Semaphore(0)  # a file server that does not answer

    def hang(fd: int, **more: Any) -> Any:
        begun.release()
        answers.wait()
        raise OSError("it answers too late")

    monkeypatch.setattr("modelkeep_loader.domain.digests._LET_GO_S", 0.02)
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(CONTENT)
    first, second, third = [SourceFile.of(file, "model", file.stat()) for file in files]
    digester = Digester(opened)
    try:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr("modelkeep_loader.domain.digests.digest_descriptor", hang)
            hung = [
                asyncio.ensure_future(digester.digest(file, with_sha256=False, reading=Reading()))
                for file in (first, second)
            ]
            for _ in hung:
                await asyncio.to_thread(begun.acquire)
        waits = asyncio.ensure_future(digester.digest(third, with_sha256=False, reading=Reading()))
        for one in hung:
            one.cancel()
        assert (await waits).digests.size_bytes == len(CONTENT)
    finally:
        answers.set()
