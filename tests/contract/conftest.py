"""Fixtures of the tests that call one service in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.installs import InstallClient, install_service


@pytest.fixture
async def service(data_dir: Path) -> AsyncIterator[InstallClient]:
    """An InstallService beside a RecordService."""
    async with install_service(data_dir) as client:
        yield client


@pytest.fixture
def source(data_dir: Path) -> Path:
    """A folder that the InstallService may import from."""
    (data_dir.parent / "import").mkdir(exist_ok=True)
    return data_dir.parent / "import"
