"""The classes of objects without weights that may be built, and the files that each is made of.

As with modules (:mod:`modelkeep.worker.classes`), a model's own files never choose code: a class is built
only if it stands here. This module imports neither torch nor the libraries it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from modelkeep.exceptions import InvalidModelException

#: The file of a scheduler.
SCHEDULER_FILE: Final = "scheduler_config.json"
_TOKENIZER_FILES: Final = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
_EXTRACTOR_FILES: Final = ("preprocessor_config.json",)
#: What an object is → the files that it may be made of, the one that says most first.
OBJECT_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "scheduler": (SCHEDULER_FILE,),
    "tokenizer": _TOKENIZER_FILES,
    "extractor": _EXTRACTOR_FILES,
    # A processor is a tokenizer and what prepares images for the same model.
    "processor": (
        *_EXTRACTOR_FILES,
        "processor_config.json",
        "video_preprocessor_config.json",
        *_TOKENIZER_FILES,
    ),
}

_DIFFUSERS: Final[Mapping[str, str]] = {
    "scheduler": (
        "Amused CMStochasticIterative CogVideoXDDIM CogVideoXDPM CosineDPMSolverMultistep DDIM DDIMInverse "
        "DDIMParallel DDPM DDPMParallel DDPMWuerstchen DEISMultistep DPMSolverMultistep "
        "DPMSolverMultistepInverse DPMSolverSDE DPMSolverSinglestep EDMDPMSolverMultistep EDMEuler "
        "EulerAncestralDiscrete EulerDiscrete FlowMatchEulerDiscrete FlowMatchHeunDiscrete FlowMatchLCM "
        "Helios HeliosDMD HeunDiscrete IPNDM KDPM2AncestralDiscrete KDPM2Discrete KarrasVe LCM LMSDiscrete "
        "LTXEulerAncestralRF PNDM RePaint SASolver SCM ScoreSdeVe TCD UnCLIP UniPCMultistep VQDiffusion"
    ),
}
_TRANSFORMERS: Final[Mapping[str, str]] = {
    "tokenizer": (
        "BertTokenizer BertTokenizerFast ByT5Tokenizer CLIPTokenizer CLIPTokenizerFast GemmaTokenizer "
        "GemmaTokenizerFast GPT2Tokenizer GPT2TokenizerFast LlamaTokenizer LlamaTokenizerFast "
        "PreTrainedTokenizerFast Qwen2Tokenizer Qwen2TokenizerFast RobertaTokenizer RobertaTokenizerFast "
        "T5Tokenizer T5TokenizerFast TokenizersBackend VitsTokenizer XLMRobertaTokenizer "
        "XLMRobertaTokenizerFast"
    ),
    "extractor": (
        "BlipImageProcessor ClapFeatureExtractor CLIPImageProcessor DPTImageProcessor PixtralImageProcessor "
        "Qwen2VLImageProcessor SiglipImageProcessor Siglip2ImageProcessor ViTImageProcessor "
        "CLIPFeatureExtractor DPTFeatureExtractor ViTFeatureExtractor"
    ),
    "processor": (
        "BlipProcessor CLIPProcessor Gemma3Processor LlavaOnevisionProcessor PixtralProcessor "
        "Qwen2VLProcessor Qwen2_5_VLProcessor Qwen3VLProcessor SiglipProcessor"
    ),
}
#: (library, class) → what it is: a key of :data:`OBJECT_FILES`.
OBJECTS: Final[Mapping[tuple[str, str], str]] = {
    **{
        ("diffusers", f"{name}Scheduler"): what
        for what, names in _DIFFUSERS.items()
        for name in names.split()
    },
    **{("transformers", name): what for what, names in _TRANSFORMERS.items() for name in names.split()},
}
#: What older models call a class that the library has under another name by now.
_TODAY: Final[Mapping[str, str]] = {
    "CLIPFeatureExtractor": "CLIPImageProcessor",
    "DPTFeatureExtractor": "DPTImageProcessor",
    "ViTFeatureExtractor": "ViTImageProcessor",
}


def resolve_object(library: str, class_name: str) -> Any:
    """The class object.

    Raises:
        InvalidModelException: The class is not on the list.
    """
    if (library, class_name) not in OBJECTS:
        known = ", ".join(sorted(name for _, name in OBJECTS))
        raise InvalidModelException(
            f"{library}.{class_name} is not among the objects that may be built ({known}).",
            metadata={"detail": f"class {library}.{class_name} is not allowed"},
            remedy="Build it from the model's folder yourself, or update modelkeep here.",
        )
    return getattr(importlib.import_module(library), _TODAY.get(class_name, class_name))
