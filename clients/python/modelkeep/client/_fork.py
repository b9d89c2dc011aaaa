"""gRPC's asyncio part does not survive a fork: its thread stays behind in the parent, and every call in the
child would wait for ever. So a client that finds itself in a forked child says so.
"""

from __future__ import annotations

import os

_used_in: int | None = None


def claim() -> None:
    """This process is about to use gRPC.

    Raises:
        RuntimeError: It was forked off one that had used it.
    """
    global _used_in
    if is_forked():
        raise RuntimeError(
            "This process was forked off one that had used a modelkeep client, and gRPC does not survive a "
            'fork. Start processes with multiprocessing.get_context("spawn"), fork before the first call, '
            "or use modelkeep.worker.ModelLoader in the child."
        )
    _used_in = os.getpid()


def is_forked() -> bool:
    """Whether gRPC was used in the process that this one was forked off."""
    return _used_in is not None and _used_in != os.getpid()
