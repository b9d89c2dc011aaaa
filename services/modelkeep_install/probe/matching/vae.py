"""Variational autoencoders of the Stable Diffusion families, as one file or a diffusers component folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelkeep.headers import Header
from modelkeep_common.families import bases_by
from modelkeep_common.families.networks import Autoencoder, Layout
from modelkeep_common.families.oldnames import of_today, twice

from ..result import UNKNOWN, Evidence, Match, NoMatch, RuledOut, Strength, certain, likely
from .coverage import compared, quoted

#: Latent channels -> bases whose autoencoders have them, with the same names and shapes otherwise.
BASES_BY_LATENTS = bases_by(lambda family: [family.latent_channels] if family.vae else [])
#: scaling_factor in a diffusers config -> bases that use it. One of a number of channels is one latent space.
BASES_BY_SCALING = bases_by(lambda family: [family.vae["scaling_factor"]] if family.vae else [])

#: What stands before its names in the original checkpoints, and where it was cut out of one.
_PREFIX = "first_stage_model."
#: What may lie beside an autoencoder's halves: what it was trained with.
_ROOTS = ("encoder", "decoder", "quant_conv", "post_quant_conv", "loss", "model_ema")
_OPTIONAL = ("quant_conv", "post_quant_conv")
_WIDTHS: Mapping[Layout, re.Pattern[str]] = {
    "ldm": re.compile(r"encoder\.down\.(\d)\.block\.0\.conv1\.weight"),
    "diffusers": re.compile(r"encoder\.down_blocks\.(\d)\.resnets\.0\.conv1\.weight"),
}


class VaeFile:
    """A VAE alone in a file; SD-1's, SD-2's and SDXL's have the same names and shapes."""

    name = "VAE"

    def match(self, header: Header) -> Match | NoMatch:
        """See ``FileKind``. A VAE whose dtype cannot be lent raises InvalidModelException."""
        prefix = _PREFIX if f"{_PREFIX}encoder.conv_in.weight" in header else ""
        anchors = {"encoder.conv_in.weight": (1, 3), "decoder.conv_out.weight": (0, 3)}
        for name, (axis, size) in anchors.items():
            shape = header.get(prefix + name, ())
            if len(shape) != 4 or shape[axis] != size:
                return NoMatch(f"no tensor {prefix + name} with {size} colour channels")
        foreign = next(
            (
                n
                for n in header
                if not n.startswith(prefix) or n[len(prefix) :].split(".", 1)[0] not in _ROOTS
            ),
            "",
        )
        if foreign:
            return NoMatch(f"holds more than an autoencoder: {foreign}")
        if both := _twice(header):
            return both
        tensors = {of_today(n[len(prefix) :]): header[n] for n in header}
        layout, widths = _layout(tensors)
        latent_in = tensors.get("decoder.conv_in.weight", ())
        if layout is None or len(latent_in) != 4:
            return NoMatch("neither the original nor the diffusers layout of an image autoencoder")
        latents = latent_in[1]
        match = vae_match(latents, len(widths), "checkpoint")
        if isinstance(match, NoMatch):
            return match
        halves = {
            name: shape for name, shape in tensors.items() if not name.startswith(("loss.", "model_ema."))
        }
        coverage = compared(halves, Autoencoder(latents, widths).layers(layout), _OPTIONAL)
        if coverage.foreign or coverage.misfit:
            what = coverage.misfit or quoted(coverage.foreign)
            return NoMatch(f"an autoencoder of a kind that is not supported yet: {what}", near=True)
        found: list[Evidence] = []
        coverage.said(found, "type=vae", f"nothing but an encoder and a decoder, in the {layout} key layout")
        found += match.evidence
        if widths != Autoencoder(latents).widths:
            found.append(likely("type=vae", f"its levels are {list(widths)} wide, as no published one's"))
        match = replace(match, evidence=tuple(found), settings={"key_layout": layout})
        header.check_lendable()
        noted = header.metadata.get("modelspec.architecture", "")[:100].lower()
        if "xl" in noted and "sdxl" in match.possible_bases:
            match = narrow(
                match,
                ("sdxl",),
                likely("base=sdxl", f"modelspec.architecture in the header's notes: {noted}"),
            )
        return match


def _twice(names: Iterable[str]) -> NoMatch | None:
    """What is said of names that are one today."""
    if (both := twice(names)) is None:
        return None
    return NoMatch(f"an autoencoder with one tensor by two names: {both[0]} and {both[1]}", near=True)


def _layout(tensors: Mapping[str, Sequence[int]]) -> tuple[Layout | None, tuple[int, ...]]:
    """The layout of the names, and the channels of each level; None if they are in neither."""
    for layout, pattern in _WIDTHS.items():
        levels = {
            int(found[1]): shape[0]
            for n, shape in tensors.items()
            if (found := pattern.fullmatch(n)) and shape
        }
        if levels and set(levels) == set(range(len(levels))):
            return layout, tuple(levels[level] for level in range(len(levels)))
    return None, ()


def vae_match(latents: int, levels: int, format_: str) -> Match | NoMatch:
    """The match of an autoencoder with this many latent channels and levels, its base still open."""
    bases = BASES_BY_LATENTS.get(latents)
    if bases is None:
        known = ", ".join(map(str, BASES_BY_LATENTS))
        return NoMatch(f"an autoencoder of {latents} latent channels, which is none of {known}", near=True)
    if levels != len(Autoencoder(latents).widths):
        return NoMatch(f"an autoencoder of {levels} levels, as no known base's", near=True)
    return Match(
        type="vae",
        format=format_,
        possible_bases=bases,
        compatible_bases=bases,
        evidence=(
            certain(
                f"base={'|'.join(bases)}",
                f"{latents} latent channels; these have the same names and shapes otherwise",
            ),
        ),
        ruled_out=tuple(
            RuledOut(base, f"its latents have {channels} channels, these {latents}")
            for channels, others in BASES_BY_LATENTS.items()
            if channels != latents
            for base in others
        ),
    )


def vae_folder_match(
    config: Mapping[str, Any], latents: int, tensors: Mapping[str, Sequence[int]]
) -> Match | NoMatch:
    """The match of an ``AutoencoderKL`` folder; its config may give likely evidence of the base.

    Args:
        config: Its config.json.
        latents: Channels of its latents.
        tensors: Shapes of all its weights, by name.
    """
    if both := _twice(tensors):
        return both
    tensors = {of_today(name): shape for name, shape in tensors.items()}
    layout, widths = _layout(tensors)
    blocks = config.get("block_out_channels")
    if widths and isinstance(blocks, list) and list(widths) != blocks:
        said = f"block_out_channels {str(blocks)[:200]}, where the weights have {list(widths)}"
        return NoMatch(f"an autoencoder whose config.json says {said}", near=True)
    levels = len(blocks) if isinstance(blocks, list) else len(widths or Autoencoder(latents).widths)
    match = vae_match(latents, levels, "diffusers")
    if isinstance(match, NoMatch):
        return match
    if "decoder.conv_in.weight" not in tensors:  # then only the config says so
        match = replace(match, evidence=tuple(likely(e.finding, e.observation) for e in match.evidence))
    layers = Autoencoder(latents, widths or Autoencoder(latents).widths).layers(layout or "diffusers")
    found: list[Evidence] = []
    compared(tensors, layers, _OPTIONAL).said(found, "type=vae", "config.json names AutoencoderKL")
    match = replace(match, evidence=(*found, *match.evidence))
    factor = config.get("scaling_factor")
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < 1e6:
        return match
    match = replace(match, settings={"scaling_factor": float(factor)})
    bases = BASES_BY_SCALING.get(round(float(factor), 5), ())
    if not set(bases) & set(match.possible_bases):
        seen = likely("base=unknown", f"scaling_factor {factor} in config.json, which is no known base's")
        return replace(match, possible_bases=(), compatible_bases=(), evidence=(*match.evidence, seen))
    return narrow(match, bases, likely(f"base={'|'.join(bases)}", f"scaling_factor {factor} in config.json"))


def narrow(match: Match, bases: Sequence[str], evidence: Evidence) -> Match:
    """Lets evidence choose among the possible bases; the first one left becomes the base.

    ``possible_bases`` keeps every base that certain evidence allows, the chosen one first;
    an autoencoder's ``compatible_bases`` are those that share the chosen base's latent space; anything
    else fits the base that was chosen, and all of them while none is.
    """
    left = [base for base in match.possible_bases if base in bases]
    if not left or match.base != UNKNOWN:
        return match
    base = left[0]
    same: tuple[str, ...] = ()
    if match.type == "vae":
        sharing = next((bases for bases in BASES_BY_SCALING.values() if base in bases), ())
        same = tuple(b for b in match.possible_bases if b in sharing and b != base)
    possible = (base, *(b for b in match.possible_bases if b != base))
    possible = possible if evidence.strength is not Strength.CERTAIN else tuple(left)
    return replace(
        match,
        base=base,
        possible_bases=possible,
        compatible_bases=same,
        evidence=(*match.evidence, evidence),
    )
