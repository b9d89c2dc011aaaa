"""The module classes that may be built, and where they are defined.

A model's own files never choose code: a class is built only if it stands here. Each has been looked
at for what would hurt when its weights are shared: none writes into its parameters or persistent
buffers while it runs. This module imports neither torch nor the libraries it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from modelkeep.exceptions import InvalidModelException

#: (library, class) → module that defines the class.
ALLOWED: Final[Mapping[tuple[str, str], str]] = {
    ("diffusers", "AutoencoderKL"): "diffusers.models.autoencoders.autoencoder_kl",
    ("diffusers", "FluxTransformer2DModel"): "diffusers.models.transformers.transformer_flux",
    ("diffusers", "SD3Transformer2DModel"): "diffusers.models.transformers.transformer_sd3",
    ("diffusers", "UNet2DConditionModel"): "diffusers.models.unets.unet_2d_condition",
    ("transformers", "CLIPTextModel"): "transformers.models.clip.modeling_clip",
    ("transformers", "CLIPTextModelWithProjection"): "transformers.models.clip.modeling_clip",
    ("transformers", "T5EncoderModel"): "transformers.models.t5.modeling_t5",
}

#: Class → its modules that the library keeps in float32 where float16 is asked for.
KEPT_IN_FLOAT32: Final[Mapping[str, frozenset[str]]] = {"T5EncoderModel": frozenset({"wo"})}


def resolve_class(library: str, class_name: str) -> Any:
    """The class object.

    Raises:
        InvalidModelException: The class is not on the list.
    """
    module = ALLOWED.get((library, class_name))
    if module is None:
        known = ", ".join(sorted(name for _, name in ALLOWED))
        raise InvalidModelException(
            f"{library}.{class_name} is not among the module classes that may be loaded ({known}).",
            metadata={"detail": f"class {library}.{class_name} is not allowed"},
        )
    return getattr(importlib.import_module(module), class_name)
