"""A real loader and its keeper: when there is one, what it holds up, and that it goes with its loader."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from modelkeep.loader.v1 import loader_service_pb2_grpc
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.supervisor import Suite
from support import tinymodels
from support.cli import run
from support.keepers import stop
from support.lending import acquire
from support.loaderprocess import LoaderProcess
from support.loaders import Lender, component
from support.memorytruth import memfd_bytes
from support.ports import free_port
from support.processes import processes_of
from support.records import record_service
from support.waiting import until

pytestmark = pytest.mark.timeout(180)

_VAE = taxonomy_pb2.MODEL_TYPE_VAE
#: Seconds that keepers of these tests wait for another loader.
_KEEP_S = 3


@dataclass
class Kept:
    """A loader with a keeper, and a model that it can lend."""

    process: LoaderProcess
    lender: Lender
    data_dir: Path
    key: str

    def keepers(self) -> list[int]:
        """Process ids of the keepers of this loader, and of those before it."""
        return [pid for pid in self._processes() if b"modelkeep_keeper" in _command(pid)]

    def weights(self) -> int:
        """Bytes of components that processes of the loader have."""
        return memfd_bytes(self._processes(), "modelkeep:")

    async def alone(self) -> None:
        """Wait until no process of the loader is left."""
        await until(lambda: not self._processes(), 30)

    def _processes(self) -> list[int]:
        return processes_of(LoaderProcess.MARK, self.data_dir)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
async def kept(data_dir: Path) -> AsyncIterator[Kept]:
    models, port = data_dir.parent / "imports", free_port()
    models.mkdir()
    await asyncio.to_thread(tinymodels.vae(widths=(32, 64)).save_pretrained, models / "vae")
    async with record_service(data_dir, port=port) as records:
        options = [f"--keep-s={_KEEP_S}"]
        process = LoaderProcess(data_dir, f"127.0.0.1:{port}", models, free_port(), options=options)
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
            await process.start()
            lender = Lender(stub, records, process.address, models, None)
            made = Kept(process, lender, data_dir, await lender.register(models / "vae", type=_VAE))
            try:
                yield made
            finally:
                await process.stop(signal.SIGKILL)
                for pid in made.keepers():
                    os.kill(pid, signal.SIGKILL)


async def test_a_loader_has_a_keeper_and_none_after_a_clean_stop(kept: Kept) -> None:
    assert len(kept.keepers()) == 1
    await acquire(kept.lender, component(kept.key))
    assert kept.weights() > 100_000
    assert await kept.process.stop(signal.SIGTERM) == 0
    assert kept.keepers() == []
    assert kept.weights() == 0
    assert list((kept.data_dir / "fd").iterdir()) == []


@pytest.mark.long
async def test_a_keeper_whose_loader_was_killed_gives_back_what_no_next_one_takes(kept: Kept) -> None:
    await acquire(kept.lender, component(kept.key))
    await kept.process.stop(signal.SIGKILL)
    await until(lambda: kept.weights() > 100_000)  # on its way it is nobody's descriptor
    began = time.monotonic()
    await kept.alone()
    assert time.monotonic() - began < _KEEP_S + 20  # and not keep_s after the next loader's end
    assert sorted(path.name for path in (kept.data_dir / "fd").iterdir()) == ["fd.lock", "fd.sock"]
    assert "given back" in (kept.data_dir / "loader" / "keeper.log").read_text()


@pytest.mark.long
async def test_a_keeper_that_is_stopped_holds_up_no_grant_and_no_clean_stop(kept: Kept) -> None:
    await acquire(kept.lender, component(kept.key))
    [keeper] = kept.keepers()
    stop(keeper)
    began = time.monotonic()
    for _ in range(30):
        await acquire(kept.lender, component(kept.key))
    assert time.monotonic() - began < 10
    assert await kept.process.stop(signal.SIGTERM) == 0
    assert keeper not in kept.keepers()
    await kept.alone()


@pytest.mark.long
async def test_both_are_killed_and_everything_is_given_back(kept: Kept) -> None:
    await acquire(kept.lender, component(kept.key))
    [keeper] = kept.keepers()
    await kept.process.stop(signal.SIGKILL)
    os.kill(keeper, signal.SIGKILL)
    await kept.alone()
    assert kept.weights() == 0
    await kept.process.start()
    await acquire(kept.lender, component(kept.key))
    assert await kept.process.stop(signal.SIGTERM) == 0
    await kept.alone()


@pytest.mark.long
def test_a_suite_that_ends_leaves_no_keeper_behind(folder: Path) -> None:
    mark = "KEEPER_OF_THE_TEST"
    tinymodels.save_vae_file(folder / "kept.safetensors")
    with Suite(env={mark: str(folder), "MODELKEEP_LOADER_KEEP_S": "60"}) as suite:
        run(suite, "install", str(folder / "kept.safetensors"), "--set", "base=sd-1", "--name", "kept")
        run(suite, "load", "kept")
        assert any(b"modelkeep_keeper" in _command(pid) for pid in processes_of(mark, folder))
    assert processes_of(mark, folder) == []
