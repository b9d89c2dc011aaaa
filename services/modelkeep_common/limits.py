"""How much a service keeps for clients that come back, and that watch."""

from __future__ import annotations

from typing import NamedTuple


class StoreLimits(NamedTuple):
    """How much a store keeps of what only serves clients that come back, and for those that watch."""

    #: Payloads of changes inside the history window; see ``watch/sqlite_log.py``.
    history_bytes: int = 64 << 20
    #: Answers for repeated request ids; see ``idempotency.py``.
    answers_bytes: int = 32 << 20
    #: What one watcher, and all of them together, may leave unread; see ``watch/budget.py``.
    watch_queue_bytes: int = 1 << 20
    watch_queues_bytes: int = 256 << 20
