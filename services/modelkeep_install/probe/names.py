"""Names as weak evidence, and the default name and description of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from modelkeep_common.families import BY_BASE, FAMILIES

_TYPE_WORDS = {"main": "main model", "vae": "VAE", "lora": "LoRA"}

#: Endings that are no part of a name; what stands behind the dot of "style v1.5" is.
_SUFFIXES = frozenset(
    {
        ".safetensors",
        ".sft",
        ".ckpt",
        ".pt",
        ".pth",
        ".bin",
        ".part",
        ".partial",
        ".crdownload",
        ".tmp",
        ".txt",
    }
)

#: What hubs call models that others are made for, as for a base -> the base that they were made from.
_MADE_FROM = {"pony": "sdxl", "illustrious": "sdxl", "noobai": "sdxl"}

#: Folders that say nothing about what is in them.
_NO_NAMES = frozenset(
    {"snapshots", "main", "models", "model", "unet", "vae", "text_encoder", "text_encoder_2"}
)


def base_from_name(path: Path, candidates: Sequence[str]) -> tuple[str, str] | None:
    """The candidate that the file's or a close folder's name speaks of, with the words that say so."""
    for part in (path.name, path.parent.name, path.parent.parent.name):
        if base := base_from_words(part, candidates):
            return base, part
    return None


def base_from_words(words: str, candidates: Sequence[str]) -> str:
    """The candidate that a name or a hub's word for a base speaks of; empty if it speaks of none.

    What it speaks of that the files rule out is no evidence for another one.
    """
    text = words.lower()
    # The later families have the more specific words: "sdxl-refiner" also speaks of SDXL.
    spoken = (f.base for f in reversed(FAMILIES) if f.words and re.search(f.words, text))
    base = next(spoken, "") or _MADE_FROM.get(text.split(" ")[0], "")
    return base if base in candidates else ""


def default_name(path: Path, *, folder: bool) -> str:
    """What people would call it: the name without suffix; a snapshot folder goes by its repository."""
    name = path.name
    while not folder and (stem := PurePath(name)).suffix.lower() in _SUFFIXES and stem.stem:
        name = stem.stem
    if re.fullmatch(r"[0-9a-f]{40}", name) and path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    if folder and name in _NO_NAMES and path.parent.name:
        return f"{path.parent.name}-{name}"
    return name


def default_description(type_: str, base: str, variant: str) -> str:
    """One line: ``Stable Diffusion 1 inpaint main model``; empty for an unknown type."""
    if type_ not in _TYPE_WORDS:
        return ""
    words = [BY_BASE[base].name if base in BY_BASE else "" if base == "unknown" else base]
    if variant not in ("", "normal"):
        words.append(variant)
    words.append(_TYPE_WORDS[type_])
    return " ".join(word for word in words if word)
