"""Records in one SQLite file."""

from __future__ import annotations

from .store import COLLECTION, Once, SqliteRecordStore

__all__ = ["COLLECTION", "Once", "SqliteRecordStore"]
