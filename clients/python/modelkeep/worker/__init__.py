"""The part of modelkeep that runs in a worker process, and assembles modules over lent memory.

    loader = ModelLoader()
    info = loader.get_model(key, SubModelType.VAE)
    with info as vae:
        image = vae.decode(latents)[0]

The only part of the client that needs torch; it is imported when one of these names is first used, so
that ``modelkeep.worker.classes`` and ``modelkeep.worker.manifest`` stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelkeep.worker.attachment import attach, mapped_memory, verify_attachment
    from modelkeep.worker.info import ModelInfo
    from modelkeep.worker.loader import ModelLoader

__all__ = ["ModelInfo", "ModelLoader", "attach", "mapped_memory", "verify_attachment"]

_HOMES = {
    "ModelInfo": "modelkeep.worker.info",
    "ModelLoader": "modelkeep.worker.loader",
    "attach": "modelkeep.worker.attachment",
    "mapped_memory": "modelkeep.worker.attachment",
    "verify_attachment": "modelkeep.worker.attachment",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
