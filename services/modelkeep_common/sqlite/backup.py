"""A copy of a database that goes on being read and written meanwhile.

By aiosqlite: a copy is one long call on a connection that nothing else uses, with nothing to commit, and the
thread for it comes and goes with the connection.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiosqlite

from ..backups import full_disk, new_file
from .connections import is_full

#: So many pages are copied before it is looked whether anybody still waits for the copy.
_STEP_PAGES: Final = 1024


class _Left(Exception):
    """Nobody waits for the copy any more."""


async def back_up(path: Path, to: Path) -> tuple[int, int]:
    """Copy a database as it is at one moment.

    Args:
        path: The database file, open in WAL mode.
        to: What the copy is called; it opens as the database does.

    Returns:
        The revision of its last change, and its size in bytes.

    Raises:
        DestinationExistsException: There is such a file already.
        DiskFullException: There is no room for it.
    """
    size = await asyncio.to_thread(_size, path)
    async with new_file(to, size) as scratch:
        try:
            return await _copy(path, scratch), await asyncio.to_thread(_size, scratch)
        except sqlite3.OperationalError as error:
            if is_full(error, scratch):
                raise await asyncio.to_thread(full_disk, to.parent, size) from None
            raise


async def _copy(path: Path, to: Path) -> int:
    is_over = False

    def go_on(status: int, remaining: int, total: int) -> None:
        if is_over:
            raise _Left

    async with (
        aiosqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None) as source,
        aiosqlite.connect(to, isolation_level=None) as target,
    ):
        # A read whose transaction stays open: the copy is of its moment, whatever is written meanwhile.
        await source.execute("BEGIN")
        rows = await source.execute_fetchall("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
        # What is no copy yet need not survive anything.
        await target.execute_fetchall("PRAGMA journal_mode = OFF")
        await target.execute_fetchall("PRAGMA synchronous = OFF")
        try:
            await source.backup(target, pages=_STEP_PAGES, progress=go_on, sleep=0)
        finally:
            is_over = True  # of a caller who left, too: the connections are closed only after the copy
        return next((int(seq) for (seq,) in rows), 0)


def _size(path: Path) -> int:
    """Bytes of a database and of its write-ahead log."""
    log = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)
