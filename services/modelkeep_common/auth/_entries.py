"""Files that say who callers are, a list of JSON objects each: reading them, and what their entries share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from modelkeep.private import check_own, check_private
from modelkeep.renewed import UnusableError, reading

from .principal import ROLES

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}").fullmatch


class EntryFile:
    """A file of entries that a setting names.

    Args:
        setting: Its name, for texts.
        path: The file.
    """

    def __init__(self, setting: str, path: Path) -> None:
        self._setting, self.path = setting, path

    def entries(self, key: str, *, secret: bool) -> list[Any]:
        """What is listed under a key. Blocks.

        Args:
            key: The key.
            secret: Whether it is an error if other users may read the file. That they may change it is one
                always.

        Raises:
            UnusableError: It cannot be read, others may write to it or read it, or it is of another form.
        """
        said = self.document(secret=secret)
        entries = said.get(key) if isinstance(said, dict) else None
        if not isinstance(entries, list):
            raise self.bad(f'it must be {{"{key}": […]}}')
        return entries

    def document(self, *, secret: bool) -> Any:
        """What the file says. Blocks.

        Args:
            secret: As of :meth:`entries`.

        Raises:
            UnusableError: It cannot be read, or is no JSON.
        """
        try:
            return json.loads(reading(self.path, self._setting, check_private if secret else check_own))
        except (ValueError, RecursionError):
            raise self.bad("it is not JSON") from None

    def keys_of(self, place: int, entry: Any, known: Set[str]) -> Mapping[str, Any]:
        """An entry, whose keys are all known.

        Raises:
            UnusableError: It is no object, or has others.
        """
        if not isinstance(entry, dict):
            raise self.bad(f"entry {place} must be an object")
        if unknown := sorted(entry.keys() - known):
            raise self.bad(f"entry {place} has the unknown key {unknown[0]!r}")
        return entry

    def name_of(self, place: int, entry: Mapping[str, Any]) -> str:
        """Who an entry is about.

        Raises:
            UnusableError: It does not say.
        """
        name = entry.get("name")
        if not isinstance(name, str) or not _NAME(name):
            raise self.bad(f"the name of entry {place} must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '@', '-'")
        return name

    def roles_of(self, name: str, entry: Mapping[str, Any], *, may_be_none: bool = False) -> frozenset[str]:
        """What roles an entry gives.

        Raises:
            UnusableError: They are no roles, or none where there must be one.
        """
        roles = entry.get("roles")
        known = isinstance(roles, list) and all(role in ROLES for role in _texts(roles))
        if not known or not (roles or may_be_none):
            raise self.bad(f"the roles of {name} must be a list of some of: {', '.join(sorted(ROLES))}")
        return frozenset(_texts(roles or []))

    def bad(self, why: str) -> UnusableError:
        """The error of a file that says something else than it should."""
        return UnusableError(f"{self._setting} {self.path} is no good: {why}")


def _texts(values: list[Any]) -> Iterator[str]:
    return (value if isinstance(value, str) else "" for value in values)
