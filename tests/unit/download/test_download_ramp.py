"""How many connections a transfer asks for, on links that a test makes up."""

from __future__ import annotations

import pytest

from modelkeep_download.domain.ramp import Ramp

MOST = 32


def settled(
    each: float, *, link: float = float("inf"), most: int = MOST, seconds: float = 5.0, writes: float = 0.0
) -> list[int]:
    """The numbers of connections wanted, where each gives so much, and the link so much in all.

    `writes` is the share of their time that goes into the file.
    """
    ramp, connections, size, wanted = Ramp(most), 1, 0.0, [1]
    for step in range(int(seconds / 0.01)):
        size += min(connections * each, link) * 0.01
        passed = step * 0.01
        waited, wrote = passed * (1 - writes), passed * writes
        connections = ramp.look(passed, int(size), connections, waited=waited, wrote=wrote)
        if connections != wanted[-1]:
            wanted.append(connections)
    return wanted


def test_slow_connections_are_all_added_at_once() -> None:
    assert settled(20e6) == [1, 16]


def test_where_even_sixteen_crawl_there_are_more_of_them() -> None:
    assert settled(5e6) == [1, 16, 32]
    assert settled(5e6, most=20) == [1, 16, 20]


def test_connections_that_brought_nothing_go_again() -> None:
    assert settled(5e6, link=5e6, seconds=2) == [1, 16, 1]
    assert settled(5e6, link=80e6, seconds=2) == [1, 16, 32, 16]


@pytest.mark.parametrize(("each", "second"), [(100e6, 2), (200e6, 2)])
def test_fast_connections_are_added_few_at_a_time(each: float, second: int) -> None:
    assert settled(each, link=each * 8)[1] == second


def test_what_the_link_bears_is_tried_anew_after_a_while_and_then_less_often() -> None:
    assert settled(5e6, link=5e6, seconds=3) == [1, 16, 1, 16, 1]
    assert len(settled(5e6, link=5e6, seconds=60)) == 2 * len([2, 4, 8, 16, 30]) + 1


def test_connections_that_are_slow_to_begin_are_not_judged_before_they_do() -> None:
    ramp, size = Ramp(MOST), 0.0
    for step in range(100):  # a second, in which nothing but the first connection works
        size += 20e6 * 0.01
        wanted = ramp.look(step * 0.01, int(size), 1)
    assert wanted == 16


@pytest.mark.parametrize(("writes", "wanted"), [(0.2, [1, 16]), (0.9, [1])])
def test_where_the_disk_holds_the_bytes_up_no_connection_is_added(writes: float, wanted: list[int]) -> None:
    assert settled(20e6, writes=writes) == wanted
