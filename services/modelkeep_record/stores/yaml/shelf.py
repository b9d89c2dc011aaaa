"""Records in one YAML file of this process, without threads: what an application embeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Self

from modelkeep_common.at_once import run_at_once

from ...domain.query import Order, Query
from ..store import Unit
from . import reads
from .file import MOST_TRIES, ChangedMeanwhileError, YamlFile, translated
from .transaction import Transaction


class YamlShelf:
    """See :class:`modelkeep_record.store.calls.Shelf`. Others may change the file at any time.

    Args:
        file: The file, open.
    """

    def __init__(self, file: YamlFile) -> None:
        self._file = file
        self._sorted = reads.Sorted(file.state)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, making it as needed.

        Raises:
            BrokenFileError: It cannot be read as it is, or is none of records.
            OSError: It cannot be made, read or locked.
        """
        file = YamlFile(path)
        file.open()
        return cls(file)

    def get(self, key: str) -> bytes | None:
        """The record of a key."""
        entry = self._file.read().entries.get(key)
        return None if entry is None else entry.message

    def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""
        return reads.find(self._file.read(), name, base, type)

    def list(self, query: Query, order: Order, descending: bool) -> list[bytes]:
        """The records that a query asks for."""
        state = self._file.read()
        if state is not self._sorted.state:
            self._sorted = reads.Sorted(state)
        page = reads.page(
            self._sorted, query, order, descending, (), sys.maxsize, sys.maxsize, "", lambda: None
        )
        return page.messages

    def look(self, unit: Unit) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        return run_at_once(unit(Transaction(self._file.read(), self._file.covers)))

    def write(self, unit: Unit) -> bytes:
        """Run a unit of work in one transaction; one that raises leaves no trace.

        Raises:
            DiskFullException: There is no room.
            ServerBusyException: Somebody changes the file all the time, or holds it.
            StoreFileBrokenException: It was changed by hand, and cannot be read.
        """
        tries = 0
        while True:
            try:
                with self._file.transaction() as transaction:
                    return run_at_once(unit(transaction))
            except (ChangedMeanwhileError, OSError) as error:
                tries += 1
                if tries == MOST_TRIES or not isinstance(error, ChangedMeanwhileError):
                    raise translated(error, self._file) from error

    def close(self) -> None:
        """Nothing is open between two calls."""
