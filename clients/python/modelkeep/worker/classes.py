"""The module classes that may be built, and where they are defined.

A model's own files never choose code: a class is built only if it stands here. Of each a tiny model is
built, lent and run in the tests (``tests/support/tinyclasses``) beside what from_pretrained makes of the same
files: none writes into its parameters or persistent buffers while it runs. What there is to know of them
without importing the libraries stands in ``classes.json``, which ``scripts/classes.py`` writes. This module
imports neither torch nor the libraries it names.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from modelkeep.exceptions import InvalidModelException

#: Library → its classes. Besides the two there are the folders of diffusers' pipelines that have classes of
#: their own: so model_index.json has them.
NAMES: Final[Mapping[str, str]] = {
    "diffusers": (
        "AsymmetricAutoencoderKL AuraFlowTransformer2DModel AutoencoderDC AutoencoderKL "
        "AutoencoderKLCogVideoX AutoencoderKLFlux2 AutoencoderKLHunyuanVideo "
        "AutoencoderKLLTXVideo AutoencoderKLQwenImage "
        "AutoencoderKLTemporalDecoder AutoencoderKLWan AutoencoderTiny BriaTransformer2DModel "
        "ChromaTransformer2DModel CogVideoXTransformer3DModel CogView3PlusTransformer2DModel "
        "CogView4Transformer2DModel ConsistencyDecoderVAE ControlNetModel ControlNetUnionModel "
        "DiTTransformer2DModel Flux2Transformer2DModel FluxControlNetModel FluxTransformer2DModel "
        "HunyuanDiT2DControlNetModel HunyuanDiT2DModel HunyuanVideoTransformer3DModel I2VGenXLUNet "
        "LTXVideoTransformer3DModel Lumina2Transformer2DModel MochiTransformer3DModel MotionAdapter "
        "PixArtTransformer2DModel PriorTransformer QwenImageControlNetModel QwenImageTransformer2DModel "
        "SD3ControlNetModel SD3Transformer2DModel SanaControlNetModel SanaTransformer2DModel "
        "StableAudioDiTModel StableCascadeUNet T2IAdapter Transformer2DModel UNet1DModel "
        "UNet2DConditionModel UNet2DModel UNet3DConditionModel UNetMotionModel "
        "UNetSpatioTemporalConditionModel VQModel "
        "WanTransformer3DModel WanVACETransformer3DModel ZImageTransformer2DModel"
    ),
    "flux": "ReduxImageEncoder",
    "stable_audio": "StableAudioProjectionModel",
    "stable_diffusion": "CLIPImageProjection StableDiffusionSafetyChecker StableUnCLIPImageNormalizer",
    "transformers": (
        "BertModel BlipForConditionalGeneration CLIPModel CLIPTextModel CLIPTextModelWithProjection "
        "CLIPVisionModel CLIPVisionModelWithProjection ClapTextModelWithProjection DPTForDepthEstimation "
        "GPT2LMHeadModel Gemma2ForCausalLM Gemma2Model GemmaForCausalLM GemmaModel GlmForCausalLM GlmModel "
        "LlamaForCausalLM LlamaModel MistralForCausalLM MistralModel Qwen2ForCausalLM Qwen2Model "
        "Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration Qwen3ForCausalLM Qwen3Model "
        "Qwen3VLForConditionalGeneration RobertaModel SiglipModel SiglipVisionModel SmolLM3ForCausalLM "
        "SmolLM3Model T5EncoderModel T5ForConditionalGeneration UMT5EncoderModel ViTModel XLMRobertaModel"
    ),
}


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """What there is to know of a class without its library.

    Attributes:
        module: Defines it.
        keys: What its configuration may say.
        nested: Key of a configuration inside that one → what that may say.
        kept: Its modules that stay in float32 where float16 is asked for.
        kept_always: Those that stay so where bfloat16 is asked for, too.
    """

    module: str
    keys: frozenset[str]
    nested: Mapping[str, frozenset[str]]
    kept: frozenset[str]
    kept_always: frozenset[str]


def _read() -> dict[tuple[str, str], ClassFacts]:
    told = json.loads(files("modelkeep.worker").joinpath("classes.json").read_text("utf-8"))
    return {
        (library, name): ClassFacts(
            module=one["module"],
            keys=frozenset(one["keys"].split()),
            nested={key: frozenset(keys.split()) for key, keys in one.get("nested", {}).items()},
            kept=frozenset(one.get("kept", "").split()),
            kept_always=frozenset(one.get("kept_always", "").split()),
        )
        for library, names in NAMES.items()
        for name in names.split()
        if (one := told[library].get(name)) is not None
    }


#: (library, class) → what there is to know of it.
CLASSES: Final[Mapping[tuple[str, str], ClassFacts]] = _read()
#: (library, class) → module that defines the class.
ALLOWED: Final[Mapping[tuple[str, str], str]] = {which: facts.module for which, facts in CLASSES.items()}


def kept_in_float32(library: str, class_name: str, precision: str) -> frozenset[str]:
    """A class's modules that its library keeps in float32 where this precision is asked for."""
    facts = CLASSES.get((library, class_name))
    if facts is None or precision == "float32":
        return frozenset()
    return facts.kept | facts.kept_always if precision == "float16" else facts.kept_always


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
            remedy="Load it from the model's folder yourself, or update modelkeep here.",
        )
    return getattr(importlib.import_module(module), class_name)
