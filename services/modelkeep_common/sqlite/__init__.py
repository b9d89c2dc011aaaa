"""One SQLite file: its threads, its schema, and threads for reads that may be dear. See database.py."""

from .connections import Books, Changed, Connection
from .database import Database
from .embedded import Embedded
from .long_reads import LongRead, LongReads
from .migrations import Migration
from .searches import SearchLane

__all__ = [
    "Books",
    "Changed",
    "Connection",
    "Database",
    "Embedded",
    "LongRead",
    "LongReads",
    "Migration",
    "SearchLane",
]
