"""A tiny model of every class that can be lent."""

from __future__ import annotations

from typing import Any

from support.tinyclasses import autoencoders, denoisers, encoders, videos

#: Classes that a pipeline of diffusers has for itself → the folder of that pipeline.
OWN = {
    "ReduxImageEncoder": "flux",
    "StableAudioProjectionModel": "stable_audio",
    "StableDiffusionSafetyChecker": "stable_diffusion",
    "StableUnCLIPImageNormalizer": "stable_diffusion",
    "CLIPImageProjection": "stable_diffusion",
}
#: (library, class) → its configuration, and what makes its inputs; None: it is compared and not run, since
#: its forward takes what a whole pipeline has at hand.
MADE: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {
    (OWN.get(name, library), name): made
    for library, several in {
        "diffusers": autoencoders.MADE | denoisers.MADE | videos.MADE,
        "transformers": encoders.MADE,
    }.items()
    for name, made in several.items()
}
