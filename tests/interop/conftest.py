"""What the tests of the dashboard have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from modelkeep.client import Client
from modelkeep.supervisor import Suite
from support.dashboard import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; no longer than a module, since no event loop can run beside it."""
    with chromium() as started:
        yield started


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    """The owner's client of the module's suite."""
    with Client(data_dir=suite.data_dir) as made:
        yield made
