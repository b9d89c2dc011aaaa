"""Services that the tests of more than one file call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from support.downloads import downloads_beside
from support.installs import InstallClient, install_service
from support.loaders import Lender
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
