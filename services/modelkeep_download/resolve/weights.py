"""How weights are named, and which of a folder's are taken: formats, variants, shards. Pure.

The names are those of diffusers and transformers: `diffusion_pytorch_model.fp16.safetensors`,
`model-00001-of-00002.safetensors` with `model.safetensors.index.json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from modelkeep_download.resolve.listing import Entry

ONNX: Final = "onnx"
OPENVINO: Final = "openvino"
#: Names of full precision, where no file bears them.
FULL: Final = frozenset({"", "default", "fp32"})
#: Asked for, and taken in full precision where there is none.
LENIENT: Final = frozenset({*FULL, "fp16"})
#: Which variant stands in for full precision where that is missing, the best first.
_IN_PLACE: Final = ("fp32", "bf16", "fp16")

_PREFIX: Final = r"(?:diffusion_pytorch_model|pytorch_model|adapter_model|model|weights)"
_SHARD: Final = r"-\d{5}-of-\d{5}"
_FORMAT: Final = r"(?P<format>safetensors|bin)"
_VARIANT: Final = r"(?P<variant>[A-Za-z0-9_.-]+?)"
_WHOLE: Final = re.compile(rf"{_PREFIX}(?:\.{_VARIANT})?(?P<shard>{_SHARD})?\.{_FORMAT}")
_LEGACY: Final = re.compile(rf"{_PREFIX}(?P<shard>{_SHARD})\.{_VARIANT}\.{_FORMAT}")
_INDEX: Final = re.compile(rf"{_PREFIX}\.{_FORMAT}\.index(?:\.{_VARIANT})?\.json")
_LEGACY_INDEX: Final = re.compile(rf"{_PREFIX}\.{_FORMAT}\.{_VARIANT}\.index\.json")
_ONNX: Final = re.compile(r".*\.onnx|.*\.onnx[_.]data(?:_\d+)?|weights\.pb")
_OPENVINO: Final = re.compile(r"openvino_model.*\.(?:xml|bin)")


@dataclass
class _Set:
    """The files of one variant in one format."""

    whole: list[Entry] = field(default_factory=list)
    shards: list[Entry] = field(default_factory=list)
    legacy: list[Entry] = field(default_factory=list)

    @property
    def files(self) -> list[Entry]:
        """One whole file rather than shards, shards rather than those named in the old way."""
        with_weights = [files for files in (self.shards, self.legacy) if _has_weights(files)]
        return self.whole or (with_weights[0] if with_weights else [])


class Taken(NamedTuple):
    """Weights of one folder."""

    files: list[Entry]
    #: Which variant they are; empty for full precision.
    variant: str
    #: Their format.
    format: str


class FolderWeights:
    """The weights that lie in one folder.

    Args:
        entries: The files in it, others too.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._sets: dict[str, dict[str, _Set]] = {}
        self._onnx: list[Entry] = []
        self._openvino: list[Entry] = []
        for entry in entries:
            self._sort(entry)

    def _sort(self, entry: Entry) -> None:
        if _OPENVINO.fullmatch(entry.name):
            self._openvino.append(entry)
        elif found := _WHOLE.fullmatch(entry.name):
            files = self._set(found)
            (files.shards if found["shard"] else files.whole).append(entry)
        elif found := _INDEX.fullmatch(entry.name):
            self._set(found).shards.append(entry)
        elif found := _LEGACY.fullmatch(entry.name) or _LEGACY_INDEX.fullmatch(entry.name):
            self._set(found).legacy.append(entry)
        elif _ONNX.fullmatch(entry.name):
            self._onnx.append(entry)

    def _set(self, found: re.Match[str]) -> _Set:
        return self._sets.setdefault(found["variant"] or "", {}).setdefault(found["format"], _Set())

    def __bool__(self) -> bool:
        return bool(self.has_torch or self._onnx or self._openvino)

    @property
    def has_torch(self) -> bool:
        """Whether there are weights for torch."""
        return any(files.files for formats in self._sets.values() for files in formats.values())

    @property
    def has_onnx(self) -> bool:
        """Whether there are weights for ONNX."""
        return bool(self._onnx)

    @property
    def variants(self) -> list[str]:
        """Those that there are; "" is full precision."""
        torch = sorted(name for name, formats in self._sets.items() if any(s.files for s in formats.values()))
        return [*torch, *([ONNX] if self._onnx else []), *([OPENVINO] if self._openvino else [])]

    @property
    def formats(self) -> set[str]:
        """Those that there are, whatever the variant."""
        return {name for formats in self._sets.values() for name, files in formats.items() if files.files}

    def of(self, variant: str) -> Taken | None:
        """The weights of one variant, in the best format; None if there are none."""
        if variant == ONNX:
            return Taken(self._onnx, ONNX, ONNX) if self._onnx else None
        if variant == OPENVINO:
            return Taken(self._openvino, OPENVINO, OPENVINO) if self._openvino else None
        formats = self._sets.get(variant, {})
        for name in ("safetensors", "bin"):
            files = formats[name].files if name in formats else []
            if files:
                return Taken(files, variant, name)
        return None

    def best(self) -> Taken | None:
        """Full precision; where that is missing, what stands in for it; None if there is nothing."""
        rest = [name for name in self.variants if name not in ("", *_IN_PLACE)]
        for variant in ("", *_IN_PLACE, *rest):
            if taken := self.of(variant):
                return taken
        return None


def _has_weights(files: Sequence[Entry]) -> bool:
    return any(entry.suffix != "json" for entry in files)
