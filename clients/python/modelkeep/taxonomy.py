"""The vocabulary: what kinds of models, files and components there are.

String enums with the member names and values of InvokeAI's model manager (its ``taxonomy``), so that
``ModelType("lora")``, ``ModelType.Lora`` and plain comparison with ``"lora"`` all work. Pure standard
library: importing this needs neither torch nor grpc.

On the wire an enum has the same values under the enum's name as prefix: ``ModelType.ControlLoRa``
(``"control_lora"``) is ``MODEL_TYPE_CONTROL_LORA`` (:func:`wire_name`, :func:`from_wire_name`).
:class:`BaseModelType` and the variants inside one family are strings on the wire, because their
lists grow several times a year.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TypeVar

E = TypeVar("E", bound=StrEnum)


class BaseModelType(StrEnum):
    """The base model that a model is, or works with. A string on the wire: others may appear there."""

    Any = "any"
    StableDiffusion1 = "sd-1"
    StableDiffusion2 = "sd-2"
    StableDiffusion3 = "sd-3"
    StableDiffusionXL = "sdxl"
    StableDiffusionXLRefiner = "sdxl-refiner"
    Flux = "flux"
    Flux2 = "flux2"
    CogView4 = "cogview4"
    ZImage = "z-image"
    ErnieImage = "ernie-image"
    Ideogram4 = "ideogram-4"
    External = "external"
    QwenImage = "qwen-image"
    Anima = "anima"
    Krea2 = "krea-2"
    Wan = "wan"
    Unknown = "unknown"


class ModelType(StrEnum):
    """What a model is for."""

    ONNX = "onnx"
    Main = "main"
    Vae = "vae"
    VAE = "vae"  # today's spelling of the member
    Lora = "lora"
    LoRA = "lora"  # today's spelling of the member
    ControlLoRa = "control_lora"
    ControlNet = "controlnet"
    TextualInversion = "embedding"
    IPAdapter = "ip_adapter"
    CLIPVision = "clip_vision"
    CLIPEmbed = "clip_embed"
    T2IAdapter = "t2i_adapter"
    T5Encoder = "t5_encoder"
    Qwen3Encoder = "qwen3_encoder"
    QwenVLEncoder = "qwen_vl_encoder"
    Qwen3VLEncoder = "qwen3_vl_encoder"
    MistralEncoder = "mistral_encoder"
    WanT5Encoder = "wan_t5_encoder"
    Gemma2Encoder = "gemma2_encoder"
    SpandrelImageToImage = "spandrel_image_to_image"
    SigLIP = "siglip"
    FluxRedux = "flux_redux"
    LlavaOnevision = "llava_onevision"
    PromptEnhancer = "prompt_enhancer"
    TextLLM = "text_llm"
    ExternalImageGenerator = "external_image_generator"
    PiDDecoder = "pid_decoder"
    Unknown = "unknown"


class ModelFormat(StrEnum):
    """How a model lies on disk."""

    OMI = "omi"
    Diffusers = "diffusers"
    Checkpoint = "checkpoint"
    Lycoris = "lycoris"
    LyCORIS = "lycoris"  # today's spelling of the member
    Onnx = "onnx"
    ONNX = "onnx"  # today's spelling of the member
    Olive = "olive"
    EmbeddingFile = "embedding_file"
    EmbeddingFolder = "embedding_folder"
    InvokeAI = "invokeai"
    T5Encoder = "t5_encoder"
    Qwen3Encoder = "qwen3_encoder"
    QwenVLEncoder = "qwen_vl_encoder"
    Qwen3VLEncoder = "qwen3_vl_encoder"
    MistralEncoder = "mistral_encoder"
    WanT5Encoder = "wan_t5_encoder"
    Gemma2Encoder = "gemma2_encoder"
    BnbQuantizedInt8b = "bnb_quantized_int8b"
    BnbQuantizedNf4b = "bnb_quantized_nf4b"
    GGUFQuantized = "gguf_quantized"
    ExternalApi = "external_api"
    SDNQQuantized = "sdnq_quantized"
    Unknown = "unknown"


class SubModelType(StrEnum):
    """A component of a model that has several: the name of its subfolder in a diffusers folder."""

    UNet = "unet"
    Transformer = "transformer"
    Transformer2 = "transformer_2"
    TextEncoder = "text_encoder"
    TextEncoder2 = "text_encoder_2"
    TextEncoder3 = "text_encoder_3"
    Tokenizer = "tokenizer"
    Tokenizer2 = "tokenizer_2"
    Tokenizer3 = "tokenizer_3"
    Pe = "pe"
    PeTokenizer = "pe_tokenizer"
    Vae = "vae"
    VAE = "vae"  # today's spelling of the member
    VaeDecoder = "vae_decoder"
    VAEDecoder = "vae_decoder"  # today's spelling of the member
    VaeEncoder = "vae_encoder"
    VAEEncoder = "vae_encoder"  # today's spelling of the member
    Scheduler = "scheduler"
    SafetyChecker = "safety_checker"
    # what pipelines have besides; the original has no names for these
    FeatureExtractor = "feature_extractor"
    ImageEncoder = "image_encoder"
    ImageProcessor = "image_processor"
    Processor = "processor"
    ControlNet = "controlnet"
    MotionAdapter = "motion_adapter"
    Prior = "prior"
    ImageNormalizer = "image_normalizer"
    ImageEmbedder = "image_embedder"
    Decoder = "decoder"
    MoVQ = "movq"
    VQVAE = "vqvae"
    ProjectionModel = "projection_model"
    LowResScheduler = "low_res_scheduler"
    ImageNoisingScheduler = "image_noising_scheduler"
    TextEncoder4 = "text_encoder_4"
    Tokenizer4 = "tokenizer_4"
    DepthEstimator = "depth_estimator"
    VisionLanguageEncoder = "vision_language_encoder"


class ModelVariantType(StrEnum):
    """What a main model's denoiser takes besides the latents."""

    Normal = "normal"
    Inpaint = "inpaint"
    Depth = "depth"


class ClipVariantType(StrEnum):
    """Family variants of CLIP text encoders."""

    L = "large"
    G = "gigantic"


class FluxVariantType(StrEnum):
    """Family variants of FLUX.1."""

    Schnell = "schnell"
    Dev = "dev"
    DevFill = "dev_fill"


class Flux2VariantType(StrEnum):
    """Family variants of FLUX.2."""

    Klein4B = "klein_4b"
    Klein4BBase = "klein_4b_base"
    Klein9B = "klein_9b"
    Klein9BBase = "klein_9b_base"
    Dev = "dev"


class ZImageVariantType(StrEnum):
    """Family variants of Z-Image."""

    Turbo = "turbo"
    ZBase = "zbase"


class Krea2VariantType(StrEnum):
    """Family variants of Krea-2."""

    Turbo = "krea2_turbo"
    Base = "krea2_base"


class QwenImageVariantType(StrEnum):
    """Family variants of Qwen-Image."""

    Generate = "generate"
    Edit = "edit"


class WanVariantType(StrEnum):
    """Family variants of Wan's main models."""

    T2V_A14B = "t2v_a14b"
    I2V_A14B = "i2v_a14b"
    TI2V_5B = "ti2v_5b"


class WanLoRAVariantType(StrEnum):
    """Family variants of Wan's LoRAs."""

    A14B = "a14b"
    B5 = "5b"


class Qwen3VariantType(StrEnum):
    """Family variants of Qwen3 text encoders."""

    Qwen3_4B = "qwen3_4b"
    Qwen3_8B = "qwen3_8b"
    Qwen3_06B = "qwen3_06b"


class MistralVariantType(StrEnum):
    """Family variants of Mistral text encoders."""

    CowMistral3Small = "cow_mistral3_small"
    Mistral3_24B = "mistral3_24b"


class PiDDecoderVariantType(StrEnum):
    """Family variants of PiD decoders."""

    Res2KSr4x = "res2k_sr4x"
    Res2KTo4KSr4x = "res2kto4k_sr4x"


class SchedulerPredictionType(StrEnum):
    """What the model predicts at each denoising step."""

    Epsilon = "epsilon"
    VPrediction = "v_prediction"
    Sample = "sample"


class ModelRepoVariant(StrEnum):
    """Which set of files of a repository: ``""`` is its default set. Not on the wire."""

    Default = ""
    FP16 = "fp16"
    FP32 = "fp32"
    ONNX = "onnx"
    OpenVINO = "openvino"
    Flax = "flax"


class ModelSourceType(StrEnum):
    """What kind of place a model came from."""

    Path = "path"
    Url = "url"
    HFRepoID = "hf_repo_id"
    Civitai = "civitai"
    External = "external"


class DigestState(StrEnum):
    """How far the digests of one file of a model are known."""

    Pending = "pending"
    Computed = "computed"
    Verified = "verified"
    Failed = "failed"


#: The enums of records on the wire.
WIRE_ENUMS: tuple[type[StrEnum], ...] = (
    ModelType,
    ModelFormat,
    SubModelType,
    ModelVariantType,
    SchedulerPredictionType,
    ModelSourceType,
    DigestState,
)
#: Enums whose name on the wire is shorter than here.
_WIRE_PREFIXES = {"ModelVariantType": "MODEL_VARIANT_", "SchedulerPredictionType": "PREDICTION_TYPE_"}


def wire_prefix(enum: type[StrEnum]) -> str:
    """The prefix of an enum's values on the wire: ``ModelType`` → ``MODEL_TYPE_``."""
    name = enum.__name__
    return _WIRE_PREFIXES.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper() + "_"


def wire_name(member: StrEnum) -> str:
    """The name of a value on the wire: ``ModelType.ControlLoRa`` → ``MODEL_TYPE_CONTROL_LORA``."""
    return wire_prefix(type(member)) + member.value.replace("-", "_").upper()


def from_wire_name(enum: type[E], name: str) -> E | None:
    """The member whose name on the wire is ``name``; None if there is none (``…_UNSPECIFIED``)."""
    return next((member for member in enum if wire_name(member) == name), None)
