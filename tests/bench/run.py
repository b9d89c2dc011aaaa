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
    "gpu",
    "downloads",
    "queued",
    "scanning",
    "importing",
    "yamlstore",
)


def main() -> int:
    """Run those named on the command line, or all."""
    sys.path.insert(0, str(Path(__file__).parent))
    chosen = sys.argv[1:] or list(BENCHES)
    if unknown := sorted(set(chosen) - set(BENCHES)):
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    print(f"{time.strftime('%Y-%m-%d')}  Python {platform.python_version()}  {platform.machine()}")
    for name in chosen:
        print(f"\n[{name}]")
        importlib.import_module(name).main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
