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
    from modelkeep.worker.attachment import attach
    from modelkeep.worker.info import ModelInfo
    from modelkeep.worker.loader import ModelLoader
    from modelkeep.worker.pipelines import PipelineInfo
    from modelkeep.worker.verification import mapped_memory, verify_attachment

__all__ = ["ModelInfo", "ModelLoader", "PipelineInfo", "attach", "mapped_memory", "verify_attachment"]

_HOMES = {
    "ModelInfo": "modelkeep.worker.info",
    "ModelLoader": "modelkeep.worker.loader",
    "PipelineInfo": "modelkeep.worker.pipelines",
    "attach": "modelkeep.worker.attachment",
    "mapped_memory": "modelkeep.worker.verification",
    "verify_attachment": "modelkeep.worker.verification",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
