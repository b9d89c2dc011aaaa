"""LoRA files: low-rank pairs for the UNet and text encoders of a Stable Diffusion model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from modelkeep.headers import Header
from modelkeep_common.families import FAMILIES, bases_by

from ..result import UNKNOWN, Evidence, Match, NoMatch, RuledOut, certain
from .unet import BASE_BY_CONTEXT

Shape = tuple[int, ...]

#: Ends of the tensors of one adapted layer; "down" is [rank, in, …], "up" is [out, rank, …].
_DOWN = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)
_UP = tuple(end.translate(str.maketrans("A", "B")).replace("down", "up") for end in _DOWN)
_REST = (*_UP, ".alpha", ".dora_scale", ".lora_mid.weight", ".lora_magnitude_vector", ".diff", ".diff_b")

#: The family's UNet and text encoders, as each key layout names them.
_UNET = re.compile(
    r"^(lora_unet_(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)_"
    r"|(base_model\.model\.)?(unet\.)?(down_blocks|mid_block|up_blocks)\.)"
)
_TEXT = re.compile(
    r"^(lora_te[12]?_text_model_|(base_model\.model\.)?(text_encoder|text_encoder_2|text_model)\.)"
)
_CROSS = re.compile(r"attn2[._](processor\.)?to_[kv](?=[._]lora|_lora)")
_QUERY = re.compile(r"[._](q_proj(?=[._])|to_q_lora)")
_DEEP = re.compile(r"transformer_blocks[._]([2-9]|1\d)[._]")

#: Width of a text encoder -> bases that have one so wide.
_BASES_BY_TEXT = bases_by(lambda family: family.text_widths)
#: What kohya's tools number the text encoders of.
_NUMBERED = tuple(
    family.base for family in FAMILIES if any(part.name == "text_encoder_2" for part in family.components)
)
#: More transformer blocks in a row than _DEEP passes over.
_DEEPER = tuple(family.base for family in FAMILIES if family.block_depth > 2)


class LoraFile:
    """LoRA for SD-1, SD-2, SDXL or the refiner, in kohya's, diffusers' or PEFT's key layout."""

    name = "LoRA"

    def match(self, header: Header) -> Match | NoMatch:
        if not header:
            return NoMatch("no tensors")
        unet: dict[str, Shape] = {}
        text: dict[str, Shape] = {}
        down = other = ""
        for name in header:
            if name.endswith(_DOWN):
                down = down or name
                if _UNET.match(name):
                    unet[name] = header[name]
                elif _TEXT.match(name):
                    text[name] = header[name]
                else:
                    other = other or name
            elif not name.endswith(_REST):
                what = (
                    "holds more than low-rank pairs"
                    if down
                    else "no low-rank pair (lora_down/lora_up, lora_A/lora_B)"
                )
                return NoMatch(f"{what}: {name}")
        if not down:
            return NoMatch("no low-rank pairs")
        layout = self._layout(down)
        if other:
            return NoMatch(f"low-rank pairs ({layout} layout), but for no Stable Diffusion model: {other}")
        pairs = len(unet) + len(text)
        evidence = [certain("type=lora", f"nothing but {pairs} low-rank pairs, in the {layout} key layout")]
        bases = self._bases(unet, text, evidence)
        ranks = {shape[0] for part in (unet, text) for shape in part.values() if shape}
        if not bases:
            return NoMatch("its layers' widths belong to no Stable Diffusion model, or to several at once")
        return Match(
            type="lora",
            format="lycoris" if layout == "kohya" else "diffusers",
            base=bases[0] if len(bases) == 1 else UNKNOWN,
            possible_bases=bases,
            compatible_bases=bases if len(bases) > 1 else (),
            settings={"key_layout": layout} | ({"rank": ranks.pop()} if len(ranks) == 1 else {}),
            evidence=tuple(evidence),
            ruled_out=tuple(
                RuledOut(base, "its layers have other widths")
                for base in BASE_BY_CONTEXT.values()
                if base not in bases
            ),
        )

    @staticmethod
    def _layout(name: str) -> str:
        if name.startswith("lora_"):
            return "kohya"
        return "peft" if ".lora_A." in name else "diffusers"

    def _bases(
        self, unet: Mapping[str, Shape], text: Mapping[str, Shape], evidence: list[Evidence]
    ) -> tuple[str, ...]:
        """Every base that all observations allow; the observations join ``evidence``."""
        bases: tuple[str, ...] = tuple(BASE_BY_CONTEXT.values())
        cross = {shape[1] for name, shape in unet.items() if len(shape) >= 2 and _CROSS.search(name)}
        if cross:
            evidence.append(certain("base", f"cross-attention takes {_list(sorted(cross))} features of text"))
            if len(cross) > 1:
                return ()
            bases = _keep(bases, [BASE_BY_CONTEXT.get(cross.pop(), "")])
        for width in sorted(
            {shape[1] for name, shape in text.items() if len(shape) >= 2 and _QUERY.search(name)}
        ):
            evidence.append(certain("base", f"adapts a text encoder {width} features wide"))
            bases = _keep(bases, _BASES_BY_TEXT.get(width, ()))
        if any(name.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")) for name in text):
            evidence.append(certain(f"base={'|'.join(_NUMBERED)}", "tells two text encoders apart"))
            bases = _keep(bases, _NUMBERED)
        if len(bases) > 1 and any(_DEEP.search(name) for name in unet):
            evidence.append(certain(f"base={'|'.join(_DEEPER)}", "more than two transformer blocks in a row"))
            bases = _keep(bases, _DEEPER)
        if len(bases) > 1:
            evidence.append(certain(f"base={'|'.join(bases)}", "nothing in the file tells these apart"))
        return bases


def _keep(bases: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    allowed = set(wanted)
    return tuple(base for base in bases if base in allowed)


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
