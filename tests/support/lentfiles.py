"""Files as the helper process builds them for workers, without a loader."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from modelkeep_convert.build import build
from modelkeep_convert.request import Build


def lent_file(
    folder: Path, library: str, class_name: str, *, precision: str = "bfloat16", **fields: Any
) -> int:
    """Descriptor of what is made of a model that save_pretrained wrote to a folder; the caller closes it."""
    (weights,) = folder.glob("*.safetensors")
    wanted = Build(
        **{
            "library": library,
            "class_name": class_name,
            "config": json.loads((folder / "config.json").read_text()),
            "precision": precision,
            "files": [weights.name],
            "base": "sd-1",
            "scaling_factor": None,
            "overrides": {},
            "name": "modelkeep:of the test",
            **fields,
        }
    )
    source = os.open(weights, os.O_RDONLY)
    try:
        return build(wanted, [source], lambda done: None)
    finally:
        os.close(source)
