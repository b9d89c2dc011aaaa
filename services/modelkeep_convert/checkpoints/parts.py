"""Which components a main model in one file holds, by the names of its tensors. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from modelkeep.exceptions import InvalidModelException
from modelkeep_common.families import BY_BASE

#: What stands before a denoiser's names; files that hold nothing else often do without.
DENOISER: Final = "model.diffusion_model."


class Part(NamedTuple):
    """A component in a file.

    Attributes:
        name: As a submodel: "text_encoder".
        library, class_name: What implements it.
        layout: How its tensors are named: "unet", "flux", "sd3", "vae", "clip", "openclip", "t5".
        prefix: What its names begin with.
    """

    name: str
    library: str
    class_name: str
    layout: str
    prefix: str

    def shapes(self, whole: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Of a file's shapes its own, without the prefix."""
        length = len(self.prefix)
        return {name[length:]: shape for name, shape in whole.items() if name.startswith(self.prefix)}


def _text(name: str, layout: str, prefix: str, *, projects: bool = False) -> Part:
    class_name = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
    return Part(name, "transformers", class_name, layout, prefix)


def _t5(name: str) -> Part:
    return Part(name, "transformers", "T5EncoderModel", "t5", "text_encoders.t5xxl.transformer.")


def _denoiser(name: str, class_name: str, layout: str) -> Part:
    return Part(name, "diffusers", class_name, layout, DENOISER)


_UNET: Final = _denoiser("unet", "UNet2DConditionModel", "unet")
_VAES: Final = tuple(
    Part("vae", "diffusers", "AutoencoderKL", "vae", prefix) for prefix in ("first_stage_model.", "vae.")
)

#: Base → what its files may hold. Of several places of one component, the first that is there counts.
_PARTS: Final[Mapping[str, tuple[Part, ...]]] = {
    "sd-1": (_UNET, _text("text_encoder", "clip", "cond_stage_model.transformer."), *_VAES),
    "sd-2": (_UNET, _text("text_encoder", "openclip", "cond_stage_model.model."), *_VAES),
    "sdxl": (
        _UNET,
        _text("text_encoder", "clip", "conditioner.embedders.0.transformer."),
        _text("text_encoder_2", "openclip", "conditioner.embedders.1.model.", projects=True),
        *_VAES,
    ),
    "sdxl-refiner": (
        _UNET,
        _text("text_encoder_2", "openclip", "conditioner.embedders.0.model.", projects=True),
        *_VAES,
    ),
    "flux": (
        _denoiser("transformer", "FluxTransformer2DModel", "flux"),
        _text("text_encoder", "clip", "text_encoders.clip_l.transformer."),
        _t5("text_encoder_2"),
        *reversed(_VAES),
    ),
    "sd-3": (
        _denoiser("transformer", "SD3Transformer2DModel", "sd3"),
        _text("text_encoder", "clip", "text_encoders.clip_l.transformer.", projects=True),
        _text("text_encoder_2", "clip", "text_encoders.clip_g.transformer.", projects=True),
        _t5("text_encoder_3"),
        *_VAES,
    ),
}
#: A layer that a denoiser of the layout has, whatever its size.
_SIGN: Final[Mapping[str, str]] = {
    "unet": "input_blocks.0.0.weight",
    "flux": "double_blocks.0.img_attn.norm.key_norm.scale",
    "sd3": "joint_blocks.0.x_block.attn.qkv.weight",
}
#: What shows that a file of this base is of another one: a name's beginning.
_OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "sd-1": ("cond_stage_model.model.", "conditioner."),
    "sd-2": ("cond_stage_model.transformer.", "conditioner."),
    "sdxl": ("cond_stage_model.", "conditioner.embedders.0.model."),
    "sdxl-refiner": ("cond_stage_model.", "conditioner.embedders.0.transformer."),
    "flux": (
        *(f"{before}distilled_guidance_layer." for before in ("", DENOISER)),  # Chroma
        *(f"{before}single_stream_modulation" for before in ("", DENOISER)),  # FLUX.2
    ),
    "sd-3": (),
}
#: What other models give their denoiser besides, which its class here would not use.
_STRANGE: Final[Mapping[str, str]] = {
    "edm_mean": "its latents are scaled by a mean and a deviation of their own (Playground 2.5)",
}


def bases() -> tuple[str, ...]:
    """The bases whose main models can be lent from one file."""
    return tuple(_PARTS)


def parts_of(shapes: Mapping[str, tuple[int, ...]], base: str, shown: str) -> dict[str, Part]:
    """The components that a file holds, by their names as submodels.

    Args:
        shapes: Name → shape, of the whole file.
        base: As the record has it.
        shown: What to call the file in messages.

    Raises:
        InvalidModelException: Files of this base are not known here, or the file is no such one.
    """
    if base not in _PARTS:
        _bad(
            shown,
            f"is of the base {base!r}, of which no main model can be lent from one file yet",
            f"base {base}",
            f"Install it as a folder in diffusers' layout. From one file can be lent: {', '.join(_PARTS)}.",
        )
    for sign, why in _STRANGE.items():
        if sign in shapes:
            _bad(shown, f"cannot be lent from one file: {why}", f"holds {sign}", "Install its folder.")
    if other := _first(shapes, _OTHERS[base]):
        _bad(
            shown,
            f"is no {BY_BASE[base].name}, as its record says: it holds {other[:200]}",
            f"no {base}: {other[:200]}",
            "Correct the record's base.",
        )
    found: dict[str, Part] = {}
    for part in _PARTS[base]:
        if part.name in found:
            continue
        if (layer := _SIGN.get(part.layout)) is not None:
            for prefix in (part.prefix, ""):
                if prefix + layer in shapes:
                    found[part.name] = part._replace(prefix=prefix)
                    break
        elif _first(shapes, (part.prefix,)):
            found[part.name] = part
    if "unet" in found:
        _check_width(shapes, base, shown)
    if not found:
        _bad(
            shown,
            f"holds no component of a {BY_BASE[base].name} under the names that original checkpoints have",
            "no component found",
            "Correct the record's type and base, or install the model as a folder in diffusers' layout.",
        )
    return found


def _check_width(shapes: Mapping[str, tuple[int, ...]], base: str, shown: str) -> None:
    """A UNet that takes another family's text would be built with the wrong heads, and nothing would tell."""
    widths = {family.context_width: family.base for family in BY_BASE.values() if family.context_width}
    for name, shape in shapes.items():
        if name.endswith(".attn2.to_k.weight") and name.startswith(DENOISER) and len(shape) == 2:
            if (other := widths.get(shape[1], base)) != base:
                _bad(
                    shown,
                    f"is no {BY_BASE[base].name}, as its record says: its attention takes {shape[1]} "
                    f"features of text, as that of {BY_BASE[other].name} does",
                    f"no {base}: {other}",
                    f"Set the record's base to {other}.",
                )
            return


def _first(names: Iterable[str], prefixes: tuple[str, ...]) -> str:
    return next((name for name in names if name.startswith(prefixes)), "") if prefixes else ""


def _bad(shown: str, said: str, detail: str, remedy: str) -> None:
    raise InvalidModelException(f"{shown} {said}.", metadata={"path": shown, "detail": detail}, remedy=remedy)
