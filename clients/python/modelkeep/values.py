"""Single values between Python and the wire."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.hubs import hub_of

E = TypeVar("E", bound=StrEnum)

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def state_of(states: Any, number: int, enum: type[E]) -> E:
    """A job's state on the wire as Python's; one of a newer service counts as running."""
    try:
        name: str = states.Name(number)
    except ValueError:
        name = "_STATE_RUNNING"
    return enum(name.partition("_STATE_")[2].lower())


def listed(value: str | Sequence[str] | None) -> list[str]:
    """One text, several, or none, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def is_url(source: object) -> bool:
    """Whether a source is written as an address and not as a path."""
    return not isinstance(source, os.PathLike) and bool(_URL.match(str(source)))


def names_hub(source: object) -> bool:
    """Whether a source is written as something at a hub: a repository, or the address of what a hub has.

    A path that exists is a path, however it is spelt.
    """
    if isinstance(source, os.PathLike):
        return False
    text = str(source).strip()
    is_address = is_url(text) and not text.lower().startswith("hf:")
    try:
        named = hub_of(text) is not None
    except ValueError:  # a page without files, which the service tells apart; or malformed behind "hf:"
        named = not is_address
    return named and (is_address or not os.path.lexists(os.path.expanduser(text)))


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path as the services want it: absolute, ``~`` expanded, symbolic links left as they are.

    Raises:
        FieldInvalidException: It is empty, which would mean the current folder, or is no UTF-8.
    """
    text = os.fspath(path)
    if not text:
        raise _bad_path("The path is empty.", "is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad_path(f"The path {text!a} is no UTF-8: rename it.", "is no UTF-8") from None
    return Path(os.path.abspath(Path(text).expanduser()))  # also folds ".."


def _bad_path(message: str, description: str) -> FieldInvalidException:
    return FieldInvalidException(message, violations=[FieldViolation("path", description)])


def seconds(timestamp: Timestamp) -> float | None:
    """Seconds since the epoch; None for a time that is not set."""
    return timestamp.ToNanoseconds() / 1e9 if timestamp.ByteSize() else None
