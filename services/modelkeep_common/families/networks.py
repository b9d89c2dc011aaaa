"""Networks by their layers: what the modules of a UNet, text encoder or autoencoder are called, and how wide.

A name without ``.weight`` leads to ``(out, in)`` of a linear layer or convolution, or to ``(width,)`` of a
norm. What a file holds is compared with all of them, so that nothing in it is passed over. The structures
are those of diffusers' UNet2DConditionModel and AutoencoderKL and transformers' CLIPTextModel, and of the
original checkpoints ("ldm").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, TypeAlias

#: Names as diffusers has them, or as the original checkpoints.
Layout: TypeAlias = Literal["diffusers", "ldm"]
Layers: TypeAlias = Mapping[str, tuple[int, ...]]
_Named: TypeAlias = Iterator[tuple[str, tuple[int, ...]]]

_LDM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_LDM_HEADS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


@dataclass(frozen=True, slots=True)
class UNet:
    """A UNet of two resnets a level.

    Attributes:
        widths: Channels of each level.
        depths: Transformer blocks in a row at each level; 0: no attention there.
        middle: The same between the two halves.
        context: Features of text that the cross-attention takes.
        labels: Features that its second embedding takes; 0 if it has none.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    middle: int
    context: int
    labels: int = 0

    def layers(self, layout: Layout) -> Layers:
        """Every layer by its name in the layout. Of the first convolution "in" is 4, whatever the variant."""
        return _unet_layers(self, layout)

    def _heads(self) -> _Named:
        first, time = self.widths[0], 4 * self.widths[0]
        yield "time_embedding.linear_1", (time, first)
        yield "time_embedding.linear_2", (time, time)
        if self.labels:
            yield "add_embedding.linear_1", (time, self.labels)
            yield "add_embedding.linear_2", (time, time)
        yield "conv_in", (first, 4)
        yield "conv_norm_out", (first,)
        yield "conv_out", (4, first)

    def _resnet(self, taken: int, given: int) -> _Named:
        yield "norm1", (taken,)
        yield "conv1", (given, taken)
        yield "time_emb_proj", (given, 4 * self.widths[0])
        yield "norm2", (given,)
        yield "conv2", (given, given)
        if taken != given:
            yield "conv_shortcut", (given, taken)

    def _attention(self, width: int, depth: int) -> _Named:
        yield "norm", (width,)
        yield "proj_in", (width, width)
        yield "proj_out", (width, width)
        for block in range(depth):
            here = f"transformer_blocks.{block}"
            for norm in ("norm1", "norm2", "norm3"):
                yield f"{here}.{norm}", (width,)
            for attention, taken in (("attn1", width), ("attn2", self.context)):
                yield f"{here}.{attention}.to_q", (width, width)
                yield f"{here}.{attention}.to_k", (width, taken)
                yield f"{here}.{attention}.to_v", (width, taken)
                yield f"{here}.{attention}.to_out.0", (width, width)
            yield f"{here}.ff.net.0.proj", (8 * width, width)
            yield f"{here}.ff.net.2", (width, 4 * width)

    def _blocks(self) -> Iterator[tuple[str, str, bool, _Named]]:
        """(name in diffusers, name in ldm, whether it is a resnet, layers) of each part of the levels."""
        last = len(self.widths) - 1
        before = self.widths[0]
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            for j in range(2):
                resnet = self._resnet(before if j == 0 else width, width)
                yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{3 * i + j + 1}.0", True, resnet
                if depth:
                    at = f"down_blocks.{i}.attentions.{j}", f"input_blocks.{3 * i + j + 1}.1"
                    yield *at, False, self._attention(width, depth)
            if i < last:
                at = f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{3 * i + 3}.0.op"
                yield *at, False, iter([("", (width, width))])
            before = width
        for j in range(2):
            yield f"mid_block.resnets.{j}", f"middle_block.{2 * j}", True, self._resnet(before, before)
        yield "mid_block.attentions.0", "middle_block.1", False, self._attention(before, self.middle)
        for i, (width, depth) in enumerate(zip(self.widths[::-1], self.depths[::-1], strict=True)):
            skipped = self.widths[max(last - i - 1, 0)]
            for j in range(3):
                resnet = self._resnet((before if j == 0 else width) + (skipped if j == 2 else width), width)
                yield f"up_blocks.{i}.resnets.{j}", f"output_blocks.{3 * i + j}.0", True, resnet
                if depth:
                    at = f"up_blocks.{i}.attentions.{j}", f"output_blocks.{3 * i + j}.1"
                    yield *at, False, self._attention(width, depth)
            if i < last:
                ldm = f"output_blocks.{3 * i + 2}.{2 if depth else 1}.conv"
                yield f"up_blocks.{i}.upsamplers.0.conv", ldm, False, iter([("", (width, width))])
            before = width


@cache
def _unet_layers(unet: UNet, layout: Layout) -> Layers:
    ldm = layout == "ldm"
    found = {(_LDM_HEADS[name] if ldm else name): shape for name, shape in unet._heads()}
    for diffusers_name, ldm_name, is_resnet, layers in unet._blocks():
        block = ldm_name if ldm else diffusers_name
        for name, shape in layers:
            name = _LDM_RESNET[name] if ldm and is_resnet else name
            found[f"{block}.{name}" if name else block] = shape
    return found


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A CLIP text encoder.

    Attributes:
        width: Features of a token.
        depth: Number of its layers.
    """

    width: int
    depth: int

    def layers(self) -> Layers:
        """Every layer by its name in transformers, its projection too."""
        return _text_layers(self)

    def openclip_layers(self) -> Layers:
        """Every layer by its name in OpenCLIP, where query, key and value are one."""
        return _openclip_layers(self)


@cache
def _text_layers(encoder: TextEncoder) -> Layers:
    width = encoder.width
    found: dict[str, tuple[int, ...]] = {
        "text_model.embeddings.token_embedding": (49408, width),
        "text_model.embeddings.position_embedding": (77, width),
        "text_model.final_layer_norm": (width,),
        "text_projection": (width, width),
    }
    for layer in range(encoder.depth):
        here = f"text_model.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found[f"{here}.self_attn.{name}"] = (width, width)
        found |= {f"{here}.mlp.fc1": (4 * width, width), f"{here}.mlp.fc2": (width, 4 * width)}
        found |= {f"{here}.layer_norm{n}": (width,) for n in (1, 2)}
    return found


@cache
def _openclip_layers(encoder: TextEncoder) -> Layers:
    width = encoder.width
    found: dict[str, tuple[int, ...]] = {
        "token_embedding": (49408, width),
        "positional_embedding": (77, width),
        "ln_final": (width,),
        "text_projection": (width, width),
    }
    for layer in range(encoder.depth):
        here = f"transformer.resblocks.{layer}"
        found |= {f"{here}.attn.in_proj": (3 * width, width), f"{here}.attn.out_proj": (width, width)}
        found |= {f"{here}.mlp.c_fc": (4 * width, width), f"{here}.mlp.c_proj": (width, 4 * width)}
        found |= {f"{here}.ln_{n}": (width,) for n in (1, 2)}
    return found


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """An AutoencoderKL of two resnets a level, with attention between its halves.

    Attributes:
        latents: Channels of its latents.
        widths: Channels of each level.
    """

    latents: int
    widths: tuple[int, ...] = (128, 256, 512, 512)

    def layers(self, layout: Layout) -> Layers:
        """Every layer by its name in the layout, also those that some lack: ``quant_conv``."""
        return _vae_layers(self, layout)

    def _half(self, name: str, layout: Layout) -> _Named:
        """The encoder or the decoder."""
        ldm, encodes = layout == "ldm", name == "encoder"
        levels = self.widths if encodes else self.widths[::-1]
        ends = (3, 2 * self.latents) if encodes else (self.latents, 3)
        yield "conv_in", (levels[0], ends[0])
        yield "norm_out" if ldm else "conv_norm_out", (levels[-1],)
        yield "conv_out", (ends[1], levels[-1])
        before = levels[0]
        for i, width in enumerate(levels):
            if ldm:  # the decoder's levels are counted from the other end
                here = f"down.{i}" if encodes else f"up.{len(levels) - 1 - i}"
                block, sample = f"{here}.block", f"{here}.{'down' if encodes else 'up'}sample.conv"
            else:
                here = f"{'down' if encodes else 'up'}_blocks.{i}"
                block = f"{here}.resnets"
                sample = f"{here}.{'down' if encodes else 'up'}samplers.0.conv"
            for j in range(2 if encodes else 3):
                yield from _vae_resnet(f"{block}.{j}", before if j == 0 else width, width, ldm)
            if i < len(levels) - 1:
                yield sample, (width, width)
            before = width
        width = self.widths[-1]
        for j in range(2):
            yield from _vae_resnet(
                f"mid.block_{j + 1}" if ldm else f"mid_block.resnets.{j}", width, width, ldm
            )
        attention = "mid.attn_1" if ldm else "mid_block.attentions.0"
        names = ("q", "k", "v", "proj_out") if ldm else ("to_q", "to_k", "to_v", "to_out.0")
        yield f"{attention}.{'norm' if ldm else 'group_norm'}", (width,)
        yield from ((f"{attention}.{part}", (width, width)) for part in names)


def _vae_resnet(name: str, taken: int, given: int, ldm: bool) -> _Named:
    yield f"{name}.norm1", (taken,)
    yield f"{name}.conv1", (given, taken)
    yield f"{name}.norm2", (given,)
    yield f"{name}.conv2", (given, given)
    if taken != given:
        yield f"{name}.{'nin_shortcut' if ldm else 'conv_shortcut'}", (given, taken)


@lru_cache(maxsize=16)  # a file's own widths are among the arguments
def _vae_layers(vae: Autoencoder, layout: Layout) -> Layers:
    found = {f"{half}.{k}": v for half in ("encoder", "decoder") for k, v in vae._half(half, layout)}
    found["quant_conv"] = (2 * vae.latents, 2 * vae.latents)
    found["post_quant_conv"] = (vae.latents, vae.latents)
    return found
