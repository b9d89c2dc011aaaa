"""What callers have limited, in the database: one document."""

from __future__ import annotations

from pydantic import TypeAdapter

from modelkeep_common.sqlite import Connection
from modelkeep_download.domain.limits import Limits, LimitsChange

_KEY = "limits"
_LIMITS: TypeAdapter[Limits] = TypeAdapter(Limits)


def stored_limits(conn: Connection) -> Limits:
    """The limits as they were set last."""
    row = conn.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return _LIMITS.validate_json(row[0]) if row else Limits()


def change_limits(conn: Connection, change: LimitsChange) -> Limits:
    """Apply a change inside a write transaction; the limits afterwards."""
    limits = change.of(stored_limits(conn))
    text = _LIMITS.dump_json(limits).decode()
    conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_KEY, text))
    return limits
