"""Tests that need a CUDA device: without one each says so and is skipped.

Read by every run of the tests, and by the process that only hands them out: no torch before it is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from support.loaders import Lender, lender
from support.workers import Worker, Workers


@pytest.fixture(scope="session", autouse=True)
def device() -> str:
    """The device, as torch names it. This process asks for no context on it: forks of it could not use it."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("skipped: no CUDA")
    return "cuda"


@pytest.fixture(scope="module")
def alone(device: str, folder: Path) -> Iterator[list[Workers]]:
    """Three workers to come, each a process of its own; they import while the model is made."""
    with contextlib.ExitStack() as started:
        found = []
        for name in ("first", "second", "third"):
            (folder / name).mkdir()
            found.append(started.enter_context(Workers(folder / name, alone=True)))
        yield found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(alone: list[Workers], folder: Path) -> AsyncIterator[Lender]:
    """A loader that may read a tiny pipeline."""
    from support import tinymodels

    tinymodels.save_pipeline(folder / "imports" / "sd")
    async with lender(folder / "data", folder / "imports", warm_helper=True, accelerator="none") as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    """The pipeline's key."""
    return await loader.register(loader.models / "sd", name="tiny")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers(loader: Lender, alone: list[Workers]) -> AsyncIterator[list[Worker]]:
    """Them, connected to the loader; the third one is there to be killed."""
    found = [await one.new() for one in alone]
    for worker in found:
        await worker.do("connect", address=loader.address)
    yield found
    for worker in found:
        await worker.close()
