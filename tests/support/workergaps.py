"""A worker that lives through gaps in which the loader is away; see ``support.workers``."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from support.digests import decoded, digest

#: What it holds: loader, info, module; and what its thread has computed.
_kept: dict[str, Any] = {}


def hold_on(address: str, key: str, submodel: str | None = None, **options: Any) -> dict[str, Any]:
    """Hold a VAE in bfloat16 by a ModelLoader with these options; as :func:`standing`."""
    from modelkeep.worker import ModelLoader

    _kept["loader"] = ModelLoader(address, **options)
    _kept["info"] = info = _kept["loader"].get_model(key, submodel, precision="bfloat16")
    _kept["module"] = info.__enter__()
    return standing()


def standing() -> dict[str, Any]:
    """How the worker's lease stands, and which memory the module is in."""
    from modelkeep.worker import mapped_memory, verify_attachment

    verify_attachment(_kept["module"])
    locker = _kept["info"].context
    return {
        "lease": locker.lease_id,
        "away": locker.away,
        "lost": locker.lost,
        "reattached": locker.reattached,
        "memory": list(mapped_memory(_kept["module"])),
    }


def leave() -> float:
    """Leave the scope; seconds that it took."""
    began = time.perf_counter()
    _kept["info"].__exit__(None, None, None)
    return time.perf_counter() - began


def leave_in_a_child() -> None:
    """Fork a child that leaves the scope, closes its loader, and ends."""
    pid = os.fork()
    if pid == 0:
        leave()
        os._exit(0)
    os.waitpid(pid, 0)


def processor_seconds() -> float:
    """What this process took so far."""
    return time.process_time()


def weights() -> str:
    """SHA-256 of every tensor."""
    return digest(_kept["module"])


def compute() -> None:
    """Begin to compute with the module on a thread, again and again."""
    _kept["rounds"], _kept["results"] = 0, set()

    def run() -> None:
        while True:
            _kept["results"].add(decoded(_kept["module"]))
            _kept["rounds"] += 1

    threading.Thread(target=run, daemon=True).start()


def computed() -> dict[str, Any]:
    """How many rounds were computed, and every result that there was."""
    return {"rounds": _kept["rounds"], "results": sorted(_kept["results"])}
