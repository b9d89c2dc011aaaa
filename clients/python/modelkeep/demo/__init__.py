"""``modelkeep demo``: the main job on a small real model, with proofs.

This package imports no torch: what needs it (:mod:`modelkeep.demo._build`, :mod:`modelkeep.demo._decode`)
runs in processes of its own.
"""

from __future__ import annotations

from modelkeep.demo._processes import DemoFailed
from modelkeep.demo._run import build_pipeline, run_demo

__all__ = ["DemoFailed", "build_pipeline", "run_demo"]
