"""The parts of the store on a YAML file that a contract of all stores does not reach."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.exceptions import (
    DeadlineExceededException,
    RequestIdReusedException,
    ServerBusyException,
    ServerDrainingException,
    StoreFileBrokenException,
)
from modelkeep_common.watch.memory_log import MemoryLog
from modelkeep_record.domain import rules
from modelkeep_record.stores.store import Once
from modelkeep_record.stores.yaml import YamlRecordStore, writer
from modelkeep_record.stores.yaml.answers import Answers
from modelkeep_record.stores.yaml.scans import Scans
from support.records import vae
from support.recordstores import ANYBODY, create, listed
from support.waiting import until


def asked(request_id: str, principal: str = "p", fingerprint: bytes = b"f") -> Once:
    return Once(request_id, fingerprint, "m", principal)


def test_an_answer_is_found_for_its_caller_and_refused_for_another_body() -> None:
    answers = Answers(1 << 20)
    answers.keep(asked("1"), b"one")
    assert answers.find(asked("1")) == b"one"
    assert answers.find(asked("1", "q")) is None
    assert answers.find(asked("")) is None
    with pytest.raises(RequestIdReusedException):
        answers.find(asked("1", fingerprint=b"other"))


def test_the_oldest_answers_of_the_caller_with_most_are_forgotten() -> None:
    answers = Answers(20_000)
    answers.keep(asked("few", "quiet"), b"x" * 1000)
    for number in range(50):
        answers.keep(asked(str(number), "loud"), b"x" * 1000)
    assert answers.find(asked("few", "quiet")) is not None
    kept = [number for number in range(50) if answers.find(asked(str(number), "loud")) is not None]
    assert kept == list(range(kept[0], 50))
    assert 8 < len(kept) < 15
    answers.keep(asked("huge", "loud"), b"x" * 100_000)
    assert answers.find(asked("huge", "loud")) is None
    assert answers.find(asked("few", "quiet")) is not None


def test_an_answer_ends_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(1 << 20)
    answers.keep(asked("1"), b"one")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 24 * 3600 + 1)
    assert answers.find(asked("1")) is None


def scans(at_once: int = 1, waiting: int = 1, limit_s: float = 20) -> Scans:
    return Scans("list", at_once=at_once, waiting=waiting, limit_s=limit_s, remedy="ask for less")


async def test_so_many_scans_run_and_wait_and_the_next_is_told_to_come_again() -> None:
    lane, gate = scans(), threading.Event()
    first, second = (asyncio.ensure_future(lane.run(lambda go_on: gate.wait(20))) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(ServerBusyException) as refused:
        await lane.run(lambda go_on: None)
    assert refused.value.metadata == {"class": "list", "limit": "1"}
    gate.set()
    assert await first
    assert await second
    assert await lane.run(lambda go_on: 5) == 5
    await lane.close()
    with pytest.raises(ServerDrainingException):
        await lane.run(lambda go_on: None)


async def test_a_scan_whose_time_is_over_is_given_up_and_frees_its_place() -> None:
    lane = scans(waiting=0, limit_s=0.1)

    def endless(go_on: Callable[[], None]) -> None:
        while True:
            go_on()
            time.sleep(0.001)

    with pytest.raises(DeadlineExceededException, match="ask for less"):
        await lane.run(endless)

    async def again() -> bool:
        try:
            return await lane.run(lambda go_on: True)
        except ServerBusyException:
            return False

    async with asyncio.timeout(20):
        while not await again():  # noqa: ASYNC110  the thread notices in a moment
            await asyncio.sleep(0.01)
    await lane.close()


async def test_a_log_that_begins_with_resources_replays_none_of_their_past() -> None:
    log = MemoryLog("models")
    log.begin({"a": b"1", "b": b"2"}, 7)
    assert (await log.revision(), await log.floor()) == (7, 7)
    assert {key: kept.payload for key, kept in log.resources.items()} == {"a": b"1", "b": b"2"}
    assert log.append("a", None, revision=10) == 10
    assert log.append("c", b"3") == 11
    assert [tuple(row) async for row in log.changes(7)] == [(10, "a", None, b"1"), (11, "c", b"3", None)]


async def test_a_hand_edit_at_the_moment_of_a_write_has_the_write_done_again(data_dir: Path) -> None:
    path = data_dir / "record.yaml"
    store = await YamlRecordStore.open(path)
    edits = iter(range(2))

    async def unit(records: rules.Records) -> bytes:
        if next(edits, None) is not None:
            path.write_text(path.read_text() + "\n# a note\n")
        await rules.create(records, vae("one"), [], 5)
        return b"done"

    assert await store.write(unit, ANYBODY) == b"done"
    assert [model.name for model in await listed(store)] == ["one"]
    assert path.read_text().count("# a note") == 2
    await store.close()


async def test_it_is_logged_once_when_the_file_breaks_and_when_it_is_mended(
    data_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="modelkeep_record")
    path = data_dir / "record.yaml"
    store = await YamlRecordStore.open(path)
    await create(store, vae("one"))
    good = await asyncio.to_thread(path.read_text)
    await asyncio.to_thread(path.write_text, good + "x: 1\n")
    await until(lambda: caplog.records)
    with pytest.raises(StoreFileBrokenException):
        await create(store, vae("two"))
    await asyncio.to_thread(path.write_text, good)
    await until(lambda: len(caplog.records) > 1)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert f"{path}, line {good.count(chr(10)) + 1}, column 4" in caplog.records[0].getMessage()
    assert writer.LOOK_S < 1
    await store.close()


async def test_a_copy_has_the_comments_that_were_written_last(data_dir: Path) -> None:
    path = data_dir / "record.yaml"
    store = await YamlRecordStore.open(path)
    await create(store, vae("one"))
    text = await asyncio.to_thread(path.read_text)
    await asyncio.to_thread(path.write_text, text + "# a note\n")
    copies: list[str] = []
    async with asyncio.timeout(20):
        while not copies or "# a note" not in copies[-1]:
            made = await store.back_up(f"copy{len(copies)}")
            copies.append(await asyncio.to_thread(made.path.read_text))
            await asyncio.sleep(0.05)
    assert "name: one" in copies[-1]
    await store.close()
