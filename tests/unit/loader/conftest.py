"""A folder of models, and what plans to load them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelkeep_loader.domain.plan import Planner
from support.plans import Shelf, planner_of


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "models").mkdir()
    return Shelf(tmp_path / "models")


@pytest.fixture
def planner(shelf: Shelf) -> Iterator[Planner]:
    made = planner_of(shelf)
    yield made
    made.close()
