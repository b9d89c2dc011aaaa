"""Run the benchmarks: ``make bench``, or ``python tests/bench/run.py startup watch``.

They print ratios against a peer measured in the same run, and never fail a build: what falls short is
printed as such. Results with date and command stand in docs/benchmarks.md.
"""

from __future__ import annotations

import importlib
import platform
import sys
import time
from pathlib import Path

BENCHES = (
    "startup",
    "hop",
    "getmodel",
    "update",
    "lists",
    "watch",
    "prompt",
    "attach",
    "policy",
    "downloads",
    "queued",
    "scanning",
    "importing",
    "yamlstore",
)
#: What needs a GPU; ``cuda`` on the command line stands for all of it.
CUDA_BENCHES = ("gpu", *sorted(path.stem for path in Path(__file__).parent.glob("cuda_*.py")))


def main() -> int:
    """Run those named on the command line, or all."""
    sys.path.insert(0, str(Path(__file__).parent))
    chosen = sys.argv[1:] or [*BENCHES, *CUDA_BENCHES]
    if "cuda" in chosen:
        chosen = [*CUDA_BENCHES, *(name for name in chosen if name not in ("cuda", *CUDA_BENCHES))]
    if unknown := sorted(set(chosen) - {*BENCHES, *CUDA_BENCHES}):
        known = ", ".join((*BENCHES, *CUDA_BENCHES, "cuda"))
        print(f"no such benchmark: {', '.join(unknown)}; there are {known}", file=sys.stderr)
        return 2
    print(f"{time.strftime('%Y-%m-%d')}  Python {platform.python_version()}  {platform.machine()}")
    for name in chosen:
        print(f"\n[{name}]")
        importlib.import_module(name).main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
