"""The configuration of each component of a main model in one file. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkeep_convert import vaeconfig
from modelkeep_convert.checkpoints import denoisers, encoders
from modelkeep_convert.checkpoints.original import Original
from modelkeep_convert.checkpoints.parts import Part


def settings_of(
    part: Part,
    whole: Mapping[str, tuple[int, ...]],
    base: str,
    original: Original | None,
    prediction_type: str,
    *,
    is_named: bool,
) -> dict[str, Any]:
    """The configuration that a component's class is to be built by.

    Args:
        part: The component.
        whole: Name → shape, of the whole file.
        base: The model's family.
        original: What the model was published with; None for families that have no such file.
        prediction_type: What its denoiser predicts, as far as it is known.
        is_named: Whether the record names that configuration: then it must be this model's.

    Raises:
        InvalidModelException: The tensors are not those of the component, or contradict the configuration.
    """
    shapes = part.shapes(whole)
    if part.layout == "unet":
        config = denoisers.unet(shapes, base, original, prediction_type)
        if original is not None and is_named:
            denoisers.check_unet(config, original)
        return config
    if part.layout == "flux":
        return denoisers.flux(shapes)
    if part.layout == "sd3":
        return denoisers.sd3(shapes)
    if part.layout == "clip":
        return encoders.clip(shapes, part.class_name, opens="clip_g" in part.prefix)
    if part.layout == "openclip":
        return encoders.openclip(shapes, part.class_name, base)
    if part.layout == "t5":
        return encoders.t5(shapes)
    factor = original.scale_factor if original is not None and is_named else None
    return vaeconfig.infer(shapes, base=base, scaling_factor=factor)
