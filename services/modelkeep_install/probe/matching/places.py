"""Where the layer that an adapter changes is: in the UNet or a text encoder of which bases, by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from modelkeep_common.families import FAMILIES

from .adapters import Adapter, Shape

#: What stands before the names of layers, and which network that is: the UNet, a text encoder, the first or
#: second one of two. PEFT's own prefix says nothing.
_PREFIX: Final = re.compile(
    r"(?:base_model\.model\.|lycoris_)?"
    r"(?:(?P<unet>lora_unet_|oft_unet_|unet[._]|(?:model\.)?diffusion_model[._])"
    r"|(?P<first>lora_te1_|text_encoder[._](?!2[._]))"
    r"|(?P<second>lora_te2_|text_encoder_2[._])"
    r"|(?P<text>lora_te_))?"
)
_ENCODERS: Final[Mapping[str, tuple[str, ...]]] = {"first": ("text_encoder",), "second": ("text_encoder_2",)}
_EITHER: Final = ("text_encoder", "text_encoder_2")
#: Bases that have two text encoders, or the second one alone: whose files number them.
_NUMBERED: Final = frozenset(family.base for family in FAMILIES if "text_encoder_2" in family.text_encoders)
#: Layers whose input channels differ by variant, and what they take.
_FIRST: Final = ("conv_in", "input_blocks_0_0")
_FIRST_CHANNELS: Final = (4, 5, 8, 9)

_Shapes = Mapping[str, Sequence[Shape]]


@dataclass(frozen=True, slots=True)
class Place:
    """A layer that some base has.

    Attributes:
        layer: Its name in the file.
        adapter: What changes it.
        is_text: Whether it is one of a text encoder.
        shapes: Shapes that a layer of this name has, by base.
    """

    layer: str
    adapter: Adapter
    is_text: bool
    shapes: _Shapes

    def against(self, base: str) -> str:
        """Why it is no layer of the base; "" if it may be."""
        if not (shapes := self.shapes.get(base)):
            return f"has no layer {self.layer[:200]}"
        if not any(map(self.adapter.fits, shapes)):
            shown = [self.adapter.given, self.adapter.taken]
            return f"its layer {self.layer[:200]} has the shape {list(shapes[0])}, this one {shown}"
        return ""


def place(layer: str, adapter: Adapter) -> Place | None:
    """Where an adapted layer is; None if no base has such a layer."""
    prefix = _PREFIX.match(layer)
    assert prefix is not None  # it matches nothing too
    network = prefix.lastgroup or ""
    key = layer[prefix.end() :].replace(".", "_")
    if network in ("unet", ""):
        if key.endswith("_to_out"):  # so diffusers' attention processors call it
            key += "_0"
        if shapes := _in_unet().get(key):
            return Place(layer, adapter, False, shapes)
    if network == "unet":
        return None
    if not key.startswith("text_"):  # transformers 5 leaves this level out
        key = f"text_model_{key}"
    is_numbered = layer.startswith(("lora_te1_", "lora_te2_"))
    shapes = _in_text(_ENCODERS.get(network, _EITHER), is_numbered).get(key)
    return Place(layer, adapter, True, shapes) if shapes else None


@cache
def _in_unet() -> Mapping[str, _Shapes]:
    found: dict[str, dict[str, list[Shape]]] = {}
    for family in FAMILIES:
        if family.unet is None:
            continue
        for layers in (family.unet.layers("ldm"), family.unet.layers("diffusers")):
            for name, shape in layers.items():
                found.setdefault(name.replace(".", "_"), {})[family.base] = [shape]
    for key in _FIRST:
        for shapes in found[key].values():
            shapes[:] = [(shapes[0][0], channels) for channels in _FIRST_CHANNELS]
    return found


@cache
def _in_text(names: tuple[str, ...], numbered: bool) -> Mapping[str, _Shapes]:
    """Of the text encoders of these names; where the file numbers them, of bases that have numbers."""
    found: dict[str, dict[str, list[Shape]]] = {}
    for family in FAMILIES:
        if numbered and family.base not in _NUMBERED:
            continue
        for name in names:
            if name not in family.text_encoders:
                continue
            for layer, shape in family.text_encoders[name].layers().items():
                found.setdefault(layer.replace(".", "_"), {}).setdefault(family.base, []).append(shape)
    return found
