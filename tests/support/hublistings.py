"""Listings of repositories as Hugging Face has them: tests/data/hub/listings.json.

They have the names and the shape of well-known repositories, and of some made up for a rule; sizes are
about right.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from modelkeep_download.resolve.listing import Entry
from modelkeep_download.resolve.selection import Repo, Selection

_FILE = Path(__file__).resolve().parents[1] / "data" / "hub" / "listings.json"
_LFS = (
    "safetensors",
    "bin",
    "ckpt",
    "pt",
    "pth",
    "gguf",
    "msgpack",
    "h5",
    "onnx",
    "pb",
    "model",
    "onnx_data",
)


@dataclass(frozen=True)
class Listing:
    """One repository."""

    repo: str
    files: dict[str, int]
    #: What its model_index.json says; None if it has none.
    index: dict[str, Any] | None = None
    #: Whether it has safetensors for some components alone.
    mixed: bool = False
    #: Folders with weights that its pipeline does not load.
    unused: list[str] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """As a resolver has them."""
        return [
            Entry(path, size, hashlib.sha256(path.encode()).hexdigest() if path.endswith(_LFS) else "")
            for path, size in self.files.items()
        ]

    def select(self, path: str = "", variant: str = "") -> Selection:
        """What is taken of it."""
        repo = Repo.of(self.entries, lambda path: f"{self.repo}:{path}" if path else self.repo)
        return repo.select(path, variant, self.index if repo.index(path) else None)


@cache
def listings() -> dict[str, Listing]:
    """All of them, by repository."""
    return {told["repo"]: Listing(**told) for told in json.loads(_FILE.read_text())}
