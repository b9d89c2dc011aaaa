"""What a package drags in."""

from __future__ import annotations

import json
import subprocess
import sys

_IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps([len(names), sorted({n.partition(".")[0] for n in sys.modules})]))
"""


def modules_of(package: str, python: str = sys.executable) -> set[str]:
    """The top-level modules that are there after all of a package was imported, in a process of its own."""
    answer = subprocess.run(
        [python, "-c", _IMPORT_ALL, package], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    count, loaded = json.loads(answer.stdout)
    assert count > 3, f"{package} has no modules"
    return set(loaded)
