"""The client's README names what a program can call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelkeep.client._client import DownloadQueue, ModelInstall, ModelLoad, ModelRecordStore

README = Path(__file__).resolve().parents[3] / "clients" / "python" / "README.md"
PARTS = {
    "model_record_store": ModelRecordStore,
    "model_install": ModelInstall,
    "download_queue": DownloadQueue,
    "model_loader": ModelLoad,
}


@pytest.mark.parametrize("part", PARTS)
def test_the_table_of_the_readme_names_every_method(part: str) -> None:
    (row,) = re.findall(rf"^\| `client\.{part}` \| (.*) \|$", README.read_text(), re.MULTILINE)
    there = {name for name in vars(PARTS[part]) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)`", row)) == there
