"""What is kept between uses gives its accelerator's memory back when it is asked to, and has it again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.exceptions import ModelkeepError, VramExhaustedException
from modelkeep.loader.v1 import hold_pb2
from modelkeep.worker import attach
from modelkeep.worker.kept import KeptModel
from support import tinymodels
from support.lentdevices import Board
from support.lentfiles import lent_file
from support.originalforwards import output_of

pytestmark = pytest.mark.timeout(60)


class Lease:
    """A lease as :class:`KeptModel` knows it, over real memory and without a loader."""

    def __init__(self, board: Board, memory: int) -> None:
        self._board, self._memory = board, memory
        self._lent = board.lend(memory)
        self._part = self._lent.part()
        self.module = attach(self._lent.file, self._part)
        self._lent.close()
        self.grant = SimpleNamespace(lease=SimpleNamespace(id="lease-1"))
        self.lost = ""
        self.told: list[str] = []
        self.is_full = False
        self.is_deaf = False
        self.gate = threading.Event()
        self.gate.set()
        self._callback: Callable[[hold_pb2.HoldDemoteRequested], None] = lambda asked: None

    def when_asked_to_demote(self, callback: Callable[[hold_pb2.HoldDemoteRequested], None]) -> None:
        self._callback = callback

    def ask(self, wait_s: float = 10.0) -> None:
        """As the loader does, for somebody who waits as long."""
        asked = hold_pb2.HoldDemoteRequested(why="a test waits")
        asked.deadline_time.FromNanoseconds(int((time.time() + wait_s) * 1e9))
        self._callback(asked)

    def demote(self) -> None:
        self._part.let_go()
        self.told.append("demoted")
        if self.is_deaf:
            raise ModelkeepError("The loader does not answer.")

    def promote(self) -> None:
        self.gate.wait(10)
        if self.is_full:
            raise VramExhaustedException("There is no room on sim:0.")
        again = self._board.place(self._memory, self._lent.size_bytes)
        self._part.take_back(again)
        os.close(again)
        self.told.append("promoted")

    def release(self) -> None:
        self.told.append("released")


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def lease(board: Board, tmp_path: Path) -> Iterator[Lease]:
    tinymodels.vae(widths=(32, 64)).save_pretrained(tmp_path)
    memory = lent_file(tmp_path, "diffusers", "AutoencoderKL", precision="float32")
    yield Lease(board, memory)
    os.close(memory)


@pytest.fixture
def kept(lease: Lease) -> KeptModel:
    hold: Any = lease
    return KeptModel(hold, lease.module)


def test_what_is_idle_is_given_back_at_once_and_is_there_again_when_it_is_entered(
    board: Board, lease: Lease, kept: KeptModel
) -> None:
    with kept as module:
        before, addresses = output_of(module), [p.data_ptr() for p in module.parameters()]
    lease.ask()
    assert (kept.demoted, board.taken_bytes) == (True, 0)
    with kept as again:
        assert again is module
        assert [p.data_ptr() for p in again.parameters()] == addresses
        assert output_of(again) == before
    assert not kept.demoted
    assert lease.told == ["demoted", "promoted"]


def test_what_is_in_use_is_given_back_when_the_last_one_leaves(
    board: Board, lease: Lease, kept: KeptModel
) -> None:
    with kept:
        with kept as module:
            lease.ask()
            lease.ask()
            output_of(module)
        output_of(module)
        assert lease.told == []
    assert lease.told == ["demoted"]
    assert board.taken_bytes == 0
    lease.ask()
    assert lease.told == ["demoted"], "it was given back already"


def test_nothing_is_given_back_for_somebody_who_has_given_up(lease: Lease, kept: KeptModel) -> None:
    with kept:
        lease.ask(wait_s=-1)
    assert lease.told == []


def test_where_there_is_no_room_entering_says_so_and_may_be_tried_again(
    lease: Lease, kept: KeptModel
) -> None:
    with kept as module:
        before = output_of(module)
    lease.ask()
    lease.is_full = True
    for _ in range(2):
        with pytest.raises(VramExhaustedException):
            kept.__enter__()
        assert kept.demoted
    lease.is_full = False
    with kept as module:
        assert output_of(module) == before
    lease.ask()
    assert lease.told == ["demoted", "promoted", "demoted"], "who failed to enter is not inside"


def test_whoever_enters_while_it_comes_back_waits(lease: Lease, kept: KeptModel) -> None:
    with kept as module:
        before = output_of(module)
    lease.ask()
    lease.gate.clear()
    found: list[str] = []

    def use() -> None:
        with kept as module:
            found.append(output_of(module))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert found == []
    lease.gate.set()
    for thread in threads:
        thread.join()
    assert found == [before] * 4
    assert lease.told == ["demoted", "promoted"]


def test_many_threads_use_it_while_it_is_asked_for_again_and_again(lease: Lease, kept: KeptModel) -> None:
    with kept as module:
        before = output_of(module)
    found: list[str] = []

    def use() -> None:
        for _ in range(10):
            with kept as module:
                found.append(output_of(module))

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        lease.ask()
        time.sleep(0.001)
    assert found == [before] * 30
    assert lease.told[0] == "demoted"
    assert all(one != other for one, other in zip(lease.told, lease.told[1:], strict=False))


def test_a_loader_that_does_not_answer_changes_nothing(lease: Lease, kept: KeptModel) -> None:
    lease.is_deaf = True
    lease.ask()
    assert kept.demoted
    with kept as module:
        output_of(module)


@pytest.mark.parametrize("when", ["idle", "inside", "demoted"])
def test_it_can_be_released_at_any_time(lease: Lease, kept: KeptModel, when: str) -> None:
    if when == "inside":
        with kept as module:
            kept.release()
            output_of(module)
    else:
        if when == "demoted":
            lease.ask()
        kept.release()
    lease.ask()
    assert lease.told == (["demoted"] if when == "demoted" else []) + ["released"]
    with pytest.raises(ModelkeepError, match="released"):
        kept.__enter__()


def test_a_forked_child_is_told_to_keep_its_own(lease: Lease, kept: KeptModel) -> None:
    with kept:
        child = os.fork()
        if child == 0:
            try:
                kept.__enter__()
            except ModelkeepError as error:
                kept.__exit__(None, None, None)
                os._exit(0 if "fork" in error.message else 1)
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    with kept as module:
        output_of(module)
