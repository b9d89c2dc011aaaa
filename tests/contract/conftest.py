"""Services that the tests of more than one file call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.downloads import downloads_beside
from support.installs import InstallClient, install_service
from support.services import Services, all_services


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
