"""Adapters of single layers, told by their tensors' names and shapes: LoRA, and what LyCORIS adds to it.

The parts and their shapes are those that kohya's sd-scripts, LyCORIS, diffusers and PEFT write. An adapter
changes one layer, and its shapes tell how many features that layer takes and gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from modelkeep.headers import Header

Shape = tuple[int, ...]

_HALVES: Final = (
    ("lora_down", "down"),
    ("lora_up", "up"),
    ("lora.down", "down"),
    ("lora.up", "up"),
    ("lora_linear_layer.down", "down"),
    ("lora_linear_layer.up", "up"),
    ("lora_A", "down"),
    ("lora_B", "up"),
    ("lora_mid", "mid"),
)
#: Ending of a tensor's name behind the layer's → what it is. Settings of an adapter are "".
_PARTS: Final[Mapping[str, str]] = {
    **{f"{name}.weight": part for name, part in _HALVES},
    **{f"{name}.bias": "" for name, _ in _HALVES},
    **{f"hada_{part}": part for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": f"k{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f"{part}.weight": f"glora_{part}" for part in ("a1", "a2", "b1", "b2", "bm")},
    **{name: name for name in ("diff", "diff_b", "w_norm", "b_norm", "oft_blocks", "oft_diag", "on_input")},
    "oft_R.weight": "oft_r",
    **{"lora_A": "down", "lora_B": "up", "lora_E": "", "ranknum": ""},  # AdaLoRA's are bare
    **{"boft_R": "oft_blocks", "boft_s": "", "ia3_l": "ia3_l"},
    "weight": "weight",
    **dict.fromkeys(("alpha", "rescale", "scalar", "bias_indices", "bias_values", "bias_size"), ""),
    **dict.fromkeys(("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight"), "magnitude"),
}
#: One of these is in some tensor's name of every file that holds adapters.
_MARKS: Final = (
    "lora",
    "hada_w",
    "lokr_w",
    ".diff\n",
    ".w_norm\n",
    "oft_",
    ".on_input\n",
    ".ia3_l\n",
    ".b2.weight\n",
)
#: PEFT writes the adapter's own name before or as the last part: lora_A.default.weight.
_ADAPTER_NAME: Final = re.compile(r"(?<=\.lora_[AB]\.)\w+\.(?=weight$|bias$)|(?<=\.oft_R\.)\w+\.(?=weight$)")

#: What the field calls an adapter that has such a part; the first one of its parts counts.
_ALGORITHMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("kw1", "kw1_a", "kw1_b", "kw2", "kw2_a", "kw2_b"), "lokr"),
    **dict.fromkeys(("w1_a", "w1_b", "w2_a", "w2_b"), "loha"),
    **dict.fromkeys(("glora_a1", "glora_a2", "glora_b1", "glora_b2"), "glora"),
    **dict.fromkeys(("oft_blocks", "oft_diag", "oft_r"), "oft"),
    "on_input": "ia3",
    "ia3_l": "ia3",
    "down": "lora",
    "up": "lora",
    "diff": "full",
    "diff_b": "full",
    "w_norm": "norm",
    "b_norm": "norm",
}
_RANKS: Final = (("down", 0), ("w1_b", 0), ("kw2_b", 0), ("kw1_b", 0))


@dataclass(slots=True)
class Adapter:
    """What changes one layer.

    Attributes:
        parts: Its tensors' shapes by what they are.
        names: Their names in the file.
        algorithm: What the field calls it: lora, dora, loha, lokr, …; "" if the tensors make no adapter.
        taken, given: Features that the layer takes and gives; None where the adapter does not show it.
    """

    parts: dict[str, Shape] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    algorithm: str = ""
    taken: int | None = None
    given: int | None = None

    @property
    def rank(self) -> int | None:
        """Rank of the weights; None where they have none."""
        for part, axis in _RANKS:
            if shape := self.parts.get(part):
                return shape[axis]
        return None

    def settle(self) -> bool:
        """Tells algorithm and features by the parts; whether no part is missing, and they fit each other."""
        parts = self.parts
        found = [_ALGORITHMS[part] for part in parts if part in _ALGORITHMS]
        if not found:
            return False
        match found[0] if len(found) == 1 else min(found, key=_ORDER.index):
            case "lora":
                down, up = parts.get("down", ()), parts.get("up", ())
                if len(down) < 2 or len(up) < 2 or down[0] != up[1]:
                    return False
                self.algorithm = "dora" if "magnitude" in parts else "lora"
                self.taken, self.given = down[1], up[0]
                return True
            case name:
                self.algorithm = name
        if not all(len(parts.get(part, ())) >= 2 for part in _NEEDED.get(self.algorithm, ())):
            return False
        match self.algorithm:
            case "loha":
                # with a Tucker core both factors have the rank first
                self.taken, self.given = parts["w1_b"][1], parts["w1_a"][1 if "t1" in parts else 0]
            case "lokr":
                return self._settle_kronecker()
            case "oft" if len(blocks := parts.get("oft_blocks", ())) in (3, 4):
                self.given = blocks[-3] * blocks[-1]
            case "glora":
                self.taken, self.given = parts["glora_b2"][1], parts["glora_b1"][0]
            case "ia3":
                return "weight" in parts or "ia3_l" in parts
            case "full" | "norm":
                shapes = [shape for part, shape in parts.items() if part in _ALGORITHMS]
                self.given = next((shape[0] for shape in shapes if shape), None)
                self.taken = next((shape[1] for shape in shapes if len(shape) >= 2), None)
        return True

    def _settle_kronecker(self) -> bool:
        sides = []
        for side in ("kw1", "kw2"):
            whole, first, second = (self.parts.get(part, ()) for part in (side, f"{side}_a", f"{side}_b"))
            if len(whole) >= 2:
                sides.append(whole[:2])
            elif len(first) >= 2 and len(second) >= 2:
                sides.append((first[1 if "kt2" in self.parts and side == "kw2" else 0], second[1]))
            else:
                return False
        self.given, self.taken = sides[0][0] * sides[1][0], sides[0][1] * sides[1][1]
        return True

    def fits(self, layer: Shape) -> bool:
        """Whether it can change a layer of this shape: ``(out, in)``, or ``(width,)`` of a norm."""
        if self.algorithm == "ia3":  # of what the layer takes or of what it gives
            return max(self.parts.get("weight", ()) or self.parts.get("ia3_l", ()), default=1) in layer
        if self.given is not None and self.given != layer[0]:
            return False
        if len(layer) == 1:
            return self.taken is None
        # of a convolution, LyCORIS may write the kernel's nine places into the same dimension
        return self.taken in (None, layer[1], 9 * layer[1])


#: The special before the general: a bias may be trained beside any of them.
_ORDER: Final = ("lokr", "loha", "glora", "oft", "ia3", "lora", "full", "norm")
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "loha": ("w1_a", "w1_b", "w2_a", "w2_b"),
    "glora": ("glora_a1", "glora_a2", "glora_b1", "glora_b2"),
}


def adapters_of(header: Header) -> tuple[dict[str, Adapter], list[str]]:
    """The adapters by the layers that they change, as the file names these; and what belongs to none."""
    found: dict[str, Adapter] = {}
    for name in header:
        layer, part = _split(name)
        if part is None:
            layer = name  # kept apart, so that it is told as what it is
        adapter = found.get(layer)
        if adapter is None:
            adapter = found[layer] = Adapter()
        adapter.names.append(name)
        if part:
            adapter.parts[part] = header[name]
    whole = {layer: adapter for layer, adapter in found.items() if adapter.settle()}
    return whole, [name for layer in found.keys() - whole.keys() for name in found[layer].names]


def may_hold_adapters(header: Header) -> bool:
    """A quick look, for the many files that do not."""
    names = "\n".join(header) + "\n"
    return any(mark in names for mark in _MARKS)


def _split(name: str) -> tuple[str, str | None]:
    """(layer, part) of a tensor; the part is None if the name is no adapter's."""
    # kohya's names have their first dot there; for all others look where the parts begin
    layer, _, rest = name.partition(".")
    if (part := _PARTS.get(rest)) is not None:
        return layer, part
    if (at := name.find(".lora_")) > 0 and (part := _PARTS.get(name[at + 1 :])) is not None:
        return name[:at], part
    for layer, rest in _candidates(name):
        if (part := _PARTS.get(rest)) is not None:
            return layer, part
    return name, None


def _candidates(name: str) -> Iterator[tuple[str, str]]:
    if "_lora." in name:  # an attention processor of diffusers
        layer, _, rest = name.rpartition("_lora.")
        yield layer.replace(".processor.", "."), f"lora.{rest}"
    if ".lora_magnitude_vector." in name:
        yield name.partition(".lora_magnitude_vector.")[0], "lora_magnitude_vector"
    name = _ADAPTER_NAME.sub("", name)
    pieces = name.rsplit(".", 3)
    for count in range(len(pieces) - 1, 0, -1):
        yield ".".join(pieces[:-count]), ".".join(pieces[-count:])
