"""InvokeAI itself, at work on the database of a root; run as a script in its own environment.

``python invokeai_writer.py ROOT STOP`` starts as InvokeAI does, changes records of its models by its own
store until there is a file ``STOP``, and writes to standard output, as JSON, what its store has then.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any


def _beside(name: str) -> Any:
    """A module of this folder, which must not be on the path: one in it is called as InvokeAI's package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(root: Path, stop: Path) -> None:
    """Change records."""
    os.environ["INVOKEAI_ROOT"] = str(root)
    sys.argv = sys.argv[:1]  # importing InvokeAI reads it
    from invokeai.app.services.config.config_default import get_config
    from invokeai.app.services.model_records.model_records_base import ModelRecordChanges
    from invokeai.app.services.model_records.model_records_sql import ModelRecordServiceSQL

    config = get_config()
    config._root = root
    db = _beside("invokeai_real").opened(root, None, config)
    store = ModelRecordServiceSQL(db, logging.getLogger("records"))
    keys = sorted(model.key for model in store.all_models())
    number = 0
    while not stop.exists():
        changes = ModelRecordChanges(description=f"number {number}")
        store.update_model(keys[number % len(keys)], changes)
        number += 1
        if number == 1:
            Path(f"{stop}.begun").touch()
        time.sleep(0.002)  # others get their turn, too
    with db.transaction() as cursor:
        rows = cursor.execute("SELECT id, config FROM models ORDER BY id").fetchall()
    print(json.dumps({"changes": number, "rows": [list(row) for row in rows]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
