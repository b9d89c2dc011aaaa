"""Services that the tests of more than one file call."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep_common.limits import StoreLimits
from modelkeep_install.hashing import sampled_hash_of
from modelkeep_record.stores.store import RecordStore
from support.civitai import Civitai
from support.downloads import downloads_beside
from support.hub import Hub
from support.installs import InstallClient, install_service, small_lora
from support.loaders import Lender
from support.recordstores import KINDS, Kind
from support.services import Services, all_services
from support.workers import Worker, shared_workers


@pytest.fixture
async def service(data_dir: Path) -> AsyncIterator[InstallClient]:
    """An InstallService beside a RecordService."""
    async with install_service(data_dir) as client:
        yield client


@pytest.fixture
async def with_downloads(data_dir: Path) -> AsyncIterator[InstallClient]:
    """An InstallService with a DownloadService beside it."""
    async with (
        downloads_beside(data_dir) as address,
        install_service(data_dir, download_address=address) as client,
    ):
        yield client


@pytest.fixture
def source(data_dir: Path) -> Path:
    """A folder that the InstallService may import from."""
    (data_dir.parent / "import").mkdir(exist_ok=True)
    return data_dir.parent / "import"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A server that speaks Hugging Face's API."""
    with Hub() as started:
        yield started


@pytest.fixture
def site() -> Iterator[Civitai]:
    """A server that speaks Civitai's API."""
    with Civitai() as started:
        yield started


@pytest.fixture
def lora(tmp_path: Path) -> bytes:
    """The bytes of a small LoRA."""
    return small_lora(tmp_path / "lora.safetensors").read_bytes()


@pytest.fixture
def held_hash(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keeps every install of this process at the hash of its model, until it is set."""
    goes_on = threading.Event()

    def held(*arguments: Any) -> str:
        assert goes_on.wait(20)
        return sampled_hash_of(*arguments)

    monkeypatch.setattr("modelkeep_install.steps.probe.sampled_hash_of", held)
    return goes_on


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of store that records are kept in."""
    found: Kind = request.param
    return found


@pytest.fixture
async def store(kind: Kind, data_dir: Path) -> AsyncIterator[RecordStore]:
    """An empty store of records, of each kind."""
    opened = await kind.open(data_dir, StoreLimits())
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def services(folder: Path) -> Iterator[Services]:
    """All four services as processes, which may import from one folder only."""
    with all_services(folder) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def worker(loader: Lender) -> AsyncIterator[Worker]:
    """A worker process, connected to the loader that a module has as its own fixture."""
    process = await shared_workers().new()
    await process.do("connect", address=loader.address)
    yield process
    await process.close()
