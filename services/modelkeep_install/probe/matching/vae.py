"""Variational autoencoders of the Stable Diffusion families, as one file or a diffusers component folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelkeep.headers import Header
from modelkeep_common.families import bases_by

from ..result import UNKNOWN, Evidence, Match, NoMatch, RuledOut, Strength, certain, likely

#: Latent channels -> bases whose autoencoders have them, with the same names and shapes otherwise.
BASES_BY_LATENTS = bases_by(lambda family: [family.latent_channels] if family.vae else [])
#: scaling_factor in a diffusers config -> bases that use it. One of a number of channels is one latent space.
BASES_BY_SCALING = bases_by(lambda family: [family.vae["scaling_factor"]] if family.vae else [])

_ROOTS = ("encoder", "decoder", "quant_conv", "post_quant_conv", "loss", "model_ema", "bn")
_LAYOUTS = {
    "ldm": ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"),
    "diffusers": (
        "encoder.down_blocks.0.resnets.0.conv1.weight",
        "decoder.up_blocks.0.resnets.0.conv1.weight",
    ),
}


class VaeFile:
    """A VAE alone in a file; SD-1's, SD-2's and SDXL's have the same names and shapes."""

    name = "VAE"

    def match(self, header: Header) -> Match | NoMatch:
        """See ``FileKind``. A VAE whose dtype cannot be lent raises InvalidModelException."""
        prefix = "first_stage_model." if "first_stage_model.encoder.conv_in.weight" in header else ""
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
        layout = next((k for k, names in _LAYOUTS.items() if all(prefix + n in header for n in names)), "")
        latent_in = header.get(prefix + "decoder.conv_in.weight", ())
        if not layout or len(latent_in) != 4:
            return NoMatch("neither the original nor the diffusers layout of an image autoencoder")
        latents = latent_in[1]
        match = vae_match(latents, "checkpoint")
        if isinstance(match, NoMatch):
            return match
        found = [
            certain("type=vae", f"nothing but an encoder and a decoder, in the {layout} key layout"),
            *match.evidence,
        ]
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


def vae_match(latents: int, format_: str) -> Match | NoMatch:
    """The match of an autoencoder with this many latent channels, its base still open."""
    bases = BASES_BY_LATENTS.get(latents)
    if bases is None:
        return NoMatch(f"{latents} latent channels, which is none of {', '.join(map(str, BASES_BY_LATENTS))}")
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


def vae_folder_match(config: Mapping[str, Any], latents: int) -> Match | NoMatch:
    """The match of an ``AutoencoderKL`` folder; its config may give weak evidence of the base."""
    match = vae_match(latents, "diffusers")
    if isinstance(match, NoMatch):
        return match
    match = replace(match, evidence=(certain("type=vae", "config.json names AutoencoderKL"), *match.evidence))
    factor = config.get("scaling_factor")
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < 1e6:
        return match
    match = replace(match, settings={"scaling_factor": float(factor)})
    bases = BASES_BY_SCALING.get(round(float(factor), 5), ())
    if bases:
        match = narrow(
            match, bases, likely(f"base={'|'.join(bases)}", f"scaling_factor {factor} in config.json")
        )
    return match


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
