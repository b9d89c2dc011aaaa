"""What of a file is accounted for: its tensors beside the layers that a network has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelkeep_common.families.networks import Layers

from ..result import Evidence, certain, likely

#: All other layers of these networks have a bias.
_WITHOUT_BIAS = re.compile(r"\.attn[12]\.to_[qkv]$|embedding$|text_projection$")
#: Names that are quoted in one piece of evidence.
_MAX_QUOTED = 3


@dataclass(frozen=True, slots=True)
class Coverage:
    """How tensors and layers fit.

    Attributes:
        missing: Layers that no tensor is of.
        foreign: Tensors of no such layer.
        misfit: What of the first tensor of another shape is to be said; "" if there is none.
    """

    missing: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    misfit: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether tensors and layers are the same."""
        return not (self.missing or self.foreign or self.misfit)

    def said(self, evidence: list[Evidence], finding: str, observation: str, where: str = "") -> None:
        """Adds a finding, certain if all is accounted for; else likely, with what is not, and where."""
        if self.is_whole:
            evidence.append(certain(finding, observation))
            return
        evidence.append(likely(finding, observation))
        if self.misfit:
            evidence.append(certain("other shapes", self.misfit))
        if self.missing:
            seen = f"{len(self.missing):,} layers{where}: {quoted(self.missing)}"
            evidence.append(certain("missing", seen))
        if self.foreign:
            seen = f"{len(self.foreign):,} tensors of no such layer{where}: {quoted(self.foreign)}"
            evidence.append(certain("also", seen))


def compared(tensors: Mapping[str, Sequence[int]], layers: Layers, optional: Iterable[str] = ()) -> Coverage:
    """Compares tensors, by their names in the network, with its layers.

    Args:
        tensors: Shapes by name.
        layers: What the network has.
        optional: Layers that some of its kind lack.
    """
    foreign: list[str] = []
    misfit = ""
    weights, biases = set(optional), set(optional)
    for name, shape in tensors.items():
        layer, _, part = name.rpartition(".")
        wanted = layers.get(layer)
        if wanted is None or part not in ("weight", "bias"):
            foreign.append(name)
            continue
        (weights if part == "weight" else biases).add(layer)
        if tuple(shape[: len(wanted)]) != wanted if part == "weight" else tuple(shape) != wanted[:1]:
            misfit = misfit or f"{name} is {list(shape)}, where {list(wanted)} belongs"
    missing = [
        layer
        for layer in layers
        if layer not in weights or (layer not in biases and not _WITHOUT_BIAS.search(layer))
    ]
    return Coverage(missing, foreign, misfit)


def quoted(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    first = ", ".join(name[:100] for name in names[:_MAX_QUOTED])
    return f"{first} and {len(names) - _MAX_QUOTED:,} more" if len(names) > _MAX_QUOTED else first
