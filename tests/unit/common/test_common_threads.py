"""What blocks is waited for, whoever stops waiting for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelkeep_common.backups import new_file
from modelkeep_common.serving import start_server
from modelkeep_common.threads import in_thread, to_its_end
from support.commonapp import App, AppSettings


async def test_what_was_begun_ends_before_its_caller_goes_on() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.append(True)

    caller = asyncio.ensure_future(to_its_end(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(2):  # however often he is told
        caller.cancel()
        await asyncio.sleep(0.01)
        assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_its_answer_and_its_error_come_through() -> None:
    assert await to_its_end(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await to_its_end(divmod, 7, 0)


async def test_what_was_entered_while_its_caller_left_is_left_again() -> None:
    begun, may_enter, inside = threading.Event(), threading.Event(), []

    @contextmanager
    def slow() -> Iterator[None]:
        begun.set()
        may_enter.wait(10)
        inside.append(True)
        try:
            yield
        finally:
            inside.clear()

    async def use() -> None:
        async with in_thread(slow()):
            raise AssertionError("never reached")

    caller = asyncio.ensure_future(use())
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    may_enter.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not inside


async def test_of_a_copy_that_is_given_up_at_its_beginning_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelkeep_common import backups

    real, begun, may_go_on = backups._sweep, threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        begun.set()
        may_go_on.wait(10)
        real(folder)

    monkeypatch.setattr(backups, "_sweep", slow)

    async def copy() -> None:
        async with new_file(tmp_path / "a.db", 10):
            raise AssertionError("never reached")

    caller = asyncio.ensure_future(copy())
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    asyncio.get_running_loop().call_later(0.05, may_go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not list(tmp_path.iterdir())


def test_a_service_that_stops_early_needs_no_thread_later(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelkeep_common.serving.server._IMPORT_RULES_AFTER_S", 0.1)
    told: list[dict[str, object]] = []

    async def start_and_stop() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: told.append(context))
        settings = AppSettings.for_test(data_dir)
        server = await start_server(App({}), settings)
        await server.stop(delay_s=0, grace_s=0)
        await loop.shutdown_default_executor()
        await asyncio.sleep(0.2)

    asyncio.run(start_and_stop())
    assert not told
