"""One SQLite file: its threads, its schema, and threads for reads that may be dear. See database.py."""

from .connections import Changed, Connection
from .database import Database
from .migrations import Migration
from .searches import SearchLane

__all__ = ["Changed", "Connection", "Database", "Migration", "SearchLane"]
