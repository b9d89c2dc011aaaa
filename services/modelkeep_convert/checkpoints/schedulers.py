"""The scheduler that a main model in one file goes with: no file holds one, and few numbers tell it.

The classes and settings are those that the models of each base were published with. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from modelkeep_convert.checkpoints.original import Original

#: Of the noise of every Stable Diffusion before 3.
_BETAS: Final = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
_EULER: Final = {
    "_class_name": "EulerDiscreteScheduler",
    **_BETAS,
    "timestep_spacing": "leading",
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
}
_BY_BASE: Final[Mapping[str, Mapping[str, Any]]] = {
    "sd-1": {
        "_class_name": "PNDMScheduler",
        **_BETAS,
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
    },
    "sd-2": {
        "_class_name": "DDIMScheduler",
        **_BETAS,
        "clip_sample": False,
        "set_alpha_to_one": False,
    },
    "sdxl": _EULER,
    "sdxl-refiner": _EULER,
    "sd-3": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
}
_FLUX: Final = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}
#: Tensors without meaning of their own that trainers leave in a file → what they say.
_MARKS: Final[Mapping[str, str]] = {"v_pred": "v_prediction"}
_ZERO_SNR: Final = "ztsnr"
#: A FLUX.1 that was told how strongly to follow the text, and so is not the one distilled to four steps.
_GUIDED: Final = ("guidance_in.in_layer.weight", "model.diffusion_model.guidance_in.in_layer.weight")


def marked(names: Collection[str]) -> str:
    """What the denoiser predicts by a file's marks; empty if it has none."""
    return next((prediction for mark, prediction in _MARKS.items() if mark in names), "")


def settings_of(
    base: str, names: Collection[str], original: Original | None, prediction_type: str
) -> dict[str, Any] | None:
    """Class and settings of the scheduler; None if nobody can tell what the denoiser predicts.

    Args:
        base: The model's family.
        names: Of the file's tensors.
        original: What the model was published with.
        prediction_type: What its denoiser predicts, empty if that is not known.
    """
    if base == "flux":
        guided = any(name in names for name in _GUIDED)
        return {**_FLUX, "shift": 3.0 if guided else 1.0, "use_dynamic_shifting": guided}
    found = dict(_BY_BASE[base])
    if base == "sd-3":
        return found
    if not prediction_type and base == "sd-2":
        return None  # half of them predict velocities, and no file shows which
    found["prediction_type"] = prediction_type or "epsilon"
    if original is not None:
        found |= {
            key: value
            for key, value in (("beta_start", original.beta_start), ("beta_end", original.beta_end))
            if value is not None
        }
    if _ZERO_SNR in names and base != "sd-1":  # PNDM has no such setting
        found["rescale_betas_zero_snr"] = True
    return found
