"""Repositories of Hugging Face as people write them in place of an address; they cannot be fetched yet."""

from __future__ import annotations

import re
from typing import Final

HUGGING_FACE: Final = "https://huggingface.co"
CANNOT: Final = "A Hugging Face repository cannot be fetched yet."
_REPOSITORY: Final = re.compile(r"(hf:(?://)?)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::\S*)?")


def repository_in(text: str) -> tuple[str, bool] | None:
    """The name of the repository that a text may mean, and whether it can mean nothing else; None if none."""
    found = _REPOSITORY.fullmatch(text)
    return None if found is None else (found[2], bool(found[1]))


def remedy_for(repository: str) -> str:
    """What to give in place of a repository, as a sentence."""
    return f"Give the address of one of its files: {HUGGING_FACE}/{repository}/resolve/main/FILE"
