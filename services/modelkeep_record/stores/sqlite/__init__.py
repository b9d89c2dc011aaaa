"""Records in one SQLite file."""

from __future__ import annotations

from .store import SqliteRecordStore
from .transaction import Transaction

__all__ = ["SqliteRecordStore", "Transaction"]
