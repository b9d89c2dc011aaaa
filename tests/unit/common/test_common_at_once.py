"""Coroutines that never wait are run without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from modelkeep_common.at_once import run_at_once


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


async def total() -> int:
    return sum([number async for number in numbers()])


def test_what_a_coroutine_returns_comes_back() -> None:
    async def outer() -> int:
        return await total() + await total()

    assert run_at_once(outer()) == 6


def test_what_it_raises_is_raised() -> None:
    async def fail() -> None:
        await total()
        raise LookupError("none")

    with pytest.raises(LookupError, match="none"):
        run_at_once(fail())


def test_one_that_waits_is_ended_and_refused() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="waited for something else"):
        run_at_once(wait())
    assert ended == [True]
