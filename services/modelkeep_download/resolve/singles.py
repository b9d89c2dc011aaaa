"""Models that are one file: checkpoints, LoRAs, embeddings, GGUF; which files are variants of one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from modelkeep_download.resolve.listing import Entry
from modelkeep_download.resolve.weights import FULL

#: Formats of single files, the best first.
FORMATS: Final = ("safetensors", "sft", "gguf", "ckpt", "pt", "pth", "bin")
#: Names under which libraries look for the one file of a repository.
WELL_KNOWN: Final = ("pytorch_lora_weights", "learned_embeds")
_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}$")
_PRECISION: Final = re.compile(
    r"(?P<stem>.+?)[._-](?P<variant>fp16|bf16|fp32|fp8(?:_?e[45]m[23](?:fn)?)?(?:_scaled)?|nf4|int8|int4)$",
    re.IGNORECASE,
)
_QUANTISATION: Final = re.compile(
    r"(?P<stem>.+?)[._-](?P<variant>(?:UD[-_])?I?Q\d\w*|TQ\d_\d|F16|F32|BF16|FP16|FP32|MXFP4\w*)$",
    re.IGNORECASE,
)


@dataclass
class Single:
    """A model of one file, in what variants and formats it is there; of several files if it is cut."""

    folder: str
    stem: str
    variants: dict[str, dict[str, list[Entry]]] = field(default_factory=dict)

    def of(self, variant: str) -> list[Entry]:
        """The files of a variant in the best format; nothing if it is not there."""
        formats = self.variants.get(variant, {})
        return next((formats[name] for name in FORMATS if name in formats), [])

    def named(self, asked: str) -> str | None:
        """How it spells a variant that was asked for; None where it has none such."""
        return next((name for name in self.variants if name.casefold() == asked.casefold()), None)

    @property
    def default(self) -> str | None:
        """What is taken where nothing is asked for; None where that is for somebody to choose."""
        plain = [name for name in self.variants if name.casefold() in FULL]
        if plain or len(self.variants) == 1:
            return min(plain or self.variants, key=len)
        return None

    @property
    def entries(self) -> list[Entry]:
        """All of its files."""
        return [entry for formats in self.variants.values() for files in formats.values() for entry in files]


def singles_of(entries: Iterable[Entry]) -> list[Single]:
    """The models of one file among these, by folder and name."""
    found: dict[tuple[str, str], Single] = {}
    for entry in entries:
        if entry.suffix not in FORMATS or entry.is_training_state:
            continue
        stem, variant = _parts(entry)
        single = found.setdefault((entry.folder, stem), Single(entry.folder, stem))
        single.variants.setdefault(variant, {}).setdefault(entry.suffix, []).append(entry)
    return [found[key] for key in sorted(found)]


def well_known(singles: Sequence[Single], folder: str) -> Single | None:
    """The one that libraries look for in a folder."""
    return next((one for one in singles if one.folder == folder and one.stem in WELL_KNOWN), None)


def _parts(entry: Entry) -> tuple[str, str]:
    stem = _SHARD.sub("", entry.name.rpartition(".")[0])
    form = _QUANTISATION if entry.suffix == "gguf" else _PRECISION
    found = form.fullmatch(stem)
    return (found["stem"], found["variant"]) if found else (stem, "")
