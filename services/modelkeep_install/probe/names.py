"""Names as weak evidence, and the default name and description of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

#: What people write for a base in file and folder names, most specific first.
_BASE_WORDS: Sequence[tuple[str, str]] = (
    ("sdxl-refiner", r"refiner"),
    ("sdxl", r"sd[-_ ]?xl|(?<![a-z])xl(?![a-z])"),
    ("sd-2", r"sd[-_ ]?v?2(?!\d)|stable[-_ ]diffusion[-_ ]v?2|(?<![a-z0-9])v2[-_.][01]|768[-_]v"),
    ("sd-1", r"sd[-_ ]?v?1(?!\d\d)|stable[-_ ]diffusion[-_ ]v?1|(?<![a-z0-9])v1[-_.][45]"),
)

_TYPE_WORDS = {"main": "main model", "vae": "VAE", "lora": "LoRA"}
_BASE_NAMES = {
    "sd-1": "Stable Diffusion 1",
    "sd-2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sdxl-refiner": "Stable Diffusion XL refiner",
    "flux": "FLUX",
    "sd-3": "Stable Diffusion 3",
}

#: Folders that say nothing about what is in them.
_NO_NAMES = frozenset(
    {"snapshots", "main", "models", "model", "unet", "vae", "text_encoder", "text_encoder_2"}
)


def base_from_name(path: Path, candidates: Sequence[str]) -> tuple[str, str] | None:
    """The candidate that the file's or a close folder's name speaks of, with the words that say so."""
    for part in (path.name, path.parent.name, path.parent.parent.name):
        for base, words in _BASE_WORDS:
            found = re.search(words, part.lower())
            if found and base in candidates:
                return base, part
            if found:
                break  # it speaks of something that the files rule out: no evidence for another one
    return None


def default_name(path: Path, *, folder: bool) -> str:
    """What people would call it: the name without suffix; a snapshot folder goes by its repository."""
    name = path.name if folder else path.stem
    if re.fullmatch(r"[0-9a-f]{40}", name) and path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    if folder and name in _NO_NAMES and path.parent.name:
        return f"{path.parent.name}-{name}"
    return name


def default_description(type_: str, base: str, variant: str) -> str:
    """One line: ``Stable Diffusion 1 inpaint main model``; empty for an unknown type."""
    if type_ not in _TYPE_WORDS:
        return ""
    words = [_BASE_NAMES.get(base, "" if base == "unknown" else base)]
    if variant not in ("", "normal"):
        words.append(variant)
    words.append(_TYPE_WORDS[type_])
    return " ".join(word for word in words if word)
