"""Importing this first keeps ``python -m modelkeep…`` from taking modules out of the current folder.

``python -m`` puts that folder before everything else, so that a ``json.py`` there would be run. With
``python -P -m`` it does not, which also covers the few modules that Python imports before any code of ours.
A process that runs something else is left alone.
"""

from __future__ import annotations

import sys

_spec = getattr(sys.modules.get("__main__"), "__spec__", None)
if _spec is not None and _spec.name.startswith("modelkeep") and not sys.flags.safe_path:
    del sys.path[0]
