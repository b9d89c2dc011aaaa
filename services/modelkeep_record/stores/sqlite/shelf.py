"""Records on one connection of this process, without threads: what an application embeds."""

from __future__ import annotations

from modelkeep_common.at_once import run_at_once
from modelkeep_common.sqlite import Embedded

from ...domain.query import Order, Query
from ..store import Unit
from . import reads
from .transaction import Transaction


class SqliteShelf:
    """See :class:`modelkeep_record.store.calls.Shelf`.

    Args:
        tables: The tables of records.
        is_own: Whether the connection is closed with it.
    """

    def __init__(self, tables: Embedded, *, is_own: bool) -> None:
        self._tables = tables
        self._is_own = is_own

    def get(self, key: str) -> bytes | None:
        """The record of a key."""
        return self._tables.read(lambda conn: reads.get(conn, key))

    def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""
        return self._tables.read(lambda conn: reads.find(conn, name, base, type))

    def list(self, query: Query, order: Order, descending: bool) -> list[bytes]:
        """The records that a query asks for."""
        return self._tables.read(lambda conn: reads.whole_list(conn, query, order, descending))

    def look(self, unit: Unit) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        return self._tables.read(lambda conn: run_at_once(unit(Transaction(conn, self._tables.books))))

    def write(self, unit: Unit) -> bytes:
        """Run a unit of work in one transaction; one that raises leaves no trace."""
        return self._tables.write(lambda conn: run_at_once(unit(Transaction(conn, self._tables.books))))

    def close(self) -> None:
        """Close the connection if it was opened for this."""
        if self._is_own:
            self._tables.close()
