"""Paths as people name them among other sources: absolute, or as a file:// address."""

from __future__ import annotations

import re
from typing import Final

from modelkeep.exceptions import FieldInvalidException, FieldViolation

from .urls import path_of_file_url

_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\]+\\")


def named_path(text: str, field: str) -> str | None:
    """The absolute path that a path or a file:// address names; None where a text names no path.

    Raises:
        FieldInvalidException: It is another host's, not absolute, or a path of Windows.
    """
    text = text.strip()
    if _WINDOWS.match(text):
        raise _bad(
            field, "is a path of Windows, and this service runs on another system: name it as it is here"
        )
    if text.lower().startswith("file:"):
        text = path_of_file_url(text, field)
        if not text.startswith("/"):
            raise _bad(field, "must be an absolute path")
    return text if text.startswith("/") else None


def _bad(field: str, description: str) -> FieldInvalidException:
    return FieldInvalidException(
        f"the source cannot be used: {description}", violations=[FieldViolation(field, description)]
    )
