"""One class for each kind of model: a type in the formats that it may have.

Class names are the original's where it had the kind. The literal types of ``model_type`` and
``model_format`` are what a kind is chosen by (:mod:`modelkeep.configs._union`). A class of two parents
states ``model_type`` again: pydantic takes a field from the first parent that has it in any form, not
by Python's order of resolution.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from modelkeep.configs._base import (
    CheckpointConfig,
    DiffusersConfig,
    ModelConfigBase,
    OptionalPath,
    OptionalText,
    SubmodelDefinition,
)
from modelkeep.taxonomy import (
    BaseModelType,
    Flux2VariantType,
    FluxVariantType,
    Krea2VariantType,
    ModelFormat,
    ModelType,
    ModelVariantType,
    QwenImageVariantType,
    SchedulerPredictionType,
    WanVariantType,
    ZImageVariantType,
)

_TYPE = AliasChoices("model_type", "type")
_FORMAT = AliasChoices("model_format", "format")
_BASE = AliasChoices("base_model", "base")

#: The formats of one file of weights: plain, or quantised by one of the libraries.
FileFormat = Literal[
    ModelFormat.Checkpoint,
    ModelFormat.BnbQuantizedInt8b,
    ModelFormat.BnbQuantizedNf4b,
    ModelFormat.GGUFQuantized,
    ModelFormat.SDNQQuantized,
]


_FAMILY_VARIANTS = frozenset(
    member.value
    for family in (
        FluxVariantType,
        Flux2VariantType,
        ZImageVariantType,
        Krea2VariantType,
        QwenImageVariantType,
        WanVariantType,
    )
    for member in family
)


class MainConfig(ModelConfigBase):
    """A main model: it makes images or videos."""

    vae: OptionalPath = Field(
        default=None, description="A VAE to use in place of its own: absolute, or relative to models_dir."
    )
    variant: ModelVariantType = Field(
        default=ModelVariantType.Normal, description="What the denoiser takes besides the latents."
    )
    prediction_type: SchedulerPredictionType | None = Field(
        default=None, description="What it predicts; None: as its base, or its own configuration, says."
    )
    upcast_attention: bool | None = Field(
        default=None, description="Whether its attention needs fp32; None: not known, taken as False."
    )
    family_variant: OptionalText = Field(
        default=None, description="Variant inside its family, such as `schnell`."
    )
    submodels: list[SubmodelDefinition] = Field(
        default_factory=list, description="The components that its files hold."
    )

    @model_validator(mode="before")
    @classmethod
    def _split_variant(cls, values: Any) -> Any:
        """Today's dicts have the family's variant under ``variant``."""
        if isinstance(values, dict) and values.get("variant") in _FAMILY_VARIANTS:
            rest = {name: value for name, value in values.items() if name != "variant"}
            return {"family_variant": str(values["variant"]), **rest}
        return values


class MainCheckpointConfig(CheckpointConfig, MainConfig):
    """A main model in one file."""

    model_type: Literal[ModelType.Main] = Field(default=ModelType.Main, validation_alias=_TYPE)
    model_format: FileFormat = Field(default=ModelFormat.Checkpoint, validation_alias=_FORMAT)


class MainDiffusersConfig(DiffusersConfig, MainConfig):
    """A main model as a diffusers folder."""

    model_type: Literal[ModelType.Main] = Field(default=ModelType.Main, validation_alias=_TYPE)


class ONNXConfig(ModelConfigBase):
    """A main model as a folder of ONNX graphs; of a base other than SD-1 and SD-2."""

    model_type: Literal[ModelType.ONNX] = Field(default=ModelType.ONNX, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.Onnx, ModelFormat.Olive] = Field(
        default=ModelFormat.Onnx, validation_alias=_FORMAT
    )
    vae: OptionalText = Field(default=None, description="A VAE to use in place of its own.")
    variant: ModelVariantType = Field(
        default=ModelVariantType.Normal, description="What the denoiser takes besides the latents."
    )
    prediction_type: SchedulerPredictionType | None = Field(default=None, description="What it predicts.")
    upcast_attention: bool | None = Field(default=None, description="Whether its attention needs fp32.")

    @model_validator(mode="before")
    @classmethod
    def _main_is_onnx(cls, values: Any) -> Any:
        """The original went by the format alone: a main model in an ONNX format is an ONNX model."""
        if isinstance(values, dict):
            return {
                name: ModelType.ONNX if name in ("model_type", "type") and value == "main" else value
                for name, value in values.items()
            }
        return values


class ONNXSD1Config(ONNXConfig):
    """An ONNX model of Stable Diffusion 1."""

    base_model: Literal[BaseModelType.StableDiffusion1] = Field(
        default=BaseModelType.StableDiffusion1, validation_alias=_BASE
    )


class ONNXSD2Config(ONNXConfig):
    """An ONNX model of Stable Diffusion 2. ONNX has no YAML file, so these are part of its record."""

    base_model: Literal[BaseModelType.StableDiffusion2] = Field(
        default=BaseModelType.StableDiffusion2, validation_alias=_BASE
    )
    prediction_type: SchedulerPredictionType | None = Field(
        default=SchedulerPredictionType.VPrediction, description="What it predicts."
    )
    upcast_attention: bool | None = Field(default=True, description="Whether its attention needs fp32.")


class VaeConfig(ModelConfigBase):
    """A VAE on its own."""

    model_type: Literal[ModelType.Vae] = Field(default=ModelType.Vae, validation_alias=_TYPE)
    scaling_factor: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Latents × this = the model's own scale; None: not known.",
    )


class VaeCheckpointConfig(CheckpointConfig, VaeConfig):
    """A VAE in one file."""

    model_type: Literal[ModelType.Vae] = Field(default=ModelType.Vae, validation_alias=_TYPE)
    model_format: FileFormat = Field(default=ModelFormat.Checkpoint, validation_alias=_FORMAT)


class VaeDiffusersConfig(DiffusersConfig, VaeConfig):
    """A VAE as a diffusers folder."""

    model_type: Literal[ModelType.Vae] = Field(default=ModelType.Vae, validation_alias=_TYPE)


class LoRAConfig(ModelConfigBase):
    """Low-rank weights for a main model: LoRA, LyCORIS, DoRA."""

    model_type: Literal[ModelType.Lora] = Field(default=ModelType.Lora, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.Lycoris, ModelFormat.Diffusers, ModelFormat.OMI] = Field(
        default=ModelFormat.Lycoris, validation_alias=_FORMAT
    )
    rank: int | None = Field(
        default=None, gt=0, lt=2**31, description="Rank of the weights; None: it varies, or is not known."
    )
    key_layout: OptionalText = Field(
        default=None, description="Layout of the keys: `kohya`, `diffusers`, `peft`."
    )


class ControlLoRAConfig(ModelConfigBase):
    """A LoRA that also takes a control image."""

    model_type: Literal[ModelType.ControlLoRa] = Field(default=ModelType.ControlLoRa, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.Lycoris, ModelFormat.Diffusers] = Field(
        default=ModelFormat.Lycoris, validation_alias=_FORMAT
    )


class ControlNetConfig(ModelConfigBase):
    """A network that steers a denoiser by an image."""

    model_type: Literal[ModelType.ControlNet] = Field(default=ModelType.ControlNet, validation_alias=_TYPE)


class ControlNetCheckpointConfig(CheckpointConfig, ControlNetConfig):
    """A ControlNet in one file."""

    model_type: Literal[ModelType.ControlNet] = Field(default=ModelType.ControlNet, validation_alias=_TYPE)
    model_format: FileFormat = Field(default=ModelFormat.Checkpoint, validation_alias=_FORMAT)


class ControlNetDiffusersConfig(DiffusersConfig, ControlNetConfig):
    """A ControlNet as a diffusers folder."""

    model_type: Literal[ModelType.ControlNet] = Field(default=ModelType.ControlNet, validation_alias=_TYPE)


class TextualInversionConfig(ModelConfigBase):
    """Learned token embeddings."""

    model_type: Literal[ModelType.TextualInversion] = Field(
        default=ModelType.TextualInversion, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.EmbeddingFile, ModelFormat.EmbeddingFolder] = Field(
        default=ModelFormat.EmbeddingFile, validation_alias=_FORMAT
    )


class IPAdapterConfig(ModelConfigBase):
    """An image-prompt adapter."""

    model_type: Literal[ModelType.IPAdapter] = Field(default=ModelType.IPAdapter, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.InvokeAI, ModelFormat.Checkpoint] = Field(
        default=ModelFormat.InvokeAI, validation_alias=_FORMAT
    )
    image_encoder: OptionalText = Field(
        default=None, description="Key, repository or path of its image encoder."
    )


class T2IConfig(DiffusersConfig):
    """A small adapter that steers a denoiser by an image."""

    model_type: Literal[ModelType.T2IAdapter] = Field(default=ModelType.T2IAdapter, validation_alias=_TYPE)


class CLIPVisionConfig(DiffusersConfig):
    """A CLIP image encoder."""

    model_type: Literal[ModelType.CLIPVision] = Field(default=ModelType.CLIPVision, validation_alias=_TYPE)


#: The original's name in its later releases.
CLIPVisionDiffusersConfig = CLIPVisionConfig


class CLIPEmbedConfig(DiffusersConfig):
    """A CLIP text encoder on its own."""

    model_type: Literal[ModelType.CLIPEmbed] = Field(default=ModelType.CLIPEmbed, validation_alias=_TYPE)
    family_variant: OptionalText = Field(default=None, description="`large` or `gigantic`; None: not known.")


_EncoderFile = Literal[
    ModelFormat.Diffusers,
    ModelFormat.Checkpoint,
    ModelFormat.BnbQuantizedInt8b,
    ModelFormat.BnbQuantizedNf4b,
    ModelFormat.GGUFQuantized,
    ModelFormat.SDNQQuantized,
]


class T5EncoderConfig(ModelConfigBase):
    """A T5 text encoder."""

    model_type: Literal[ModelType.T5Encoder] = Field(default=ModelType.T5Encoder, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.T5Encoder] | _EncoderFile = Field(
        default=ModelFormat.T5Encoder, validation_alias=_FORMAT
    )


class Qwen3EncoderConfig(ModelConfigBase):
    """A Qwen3 text encoder."""

    model_type: Literal[ModelType.Qwen3Encoder] = Field(
        default=ModelType.Qwen3Encoder, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.Qwen3Encoder] | _EncoderFile = Field(
        default=ModelFormat.Qwen3Encoder, validation_alias=_FORMAT
    )


class QwenVLEncoderConfig(ModelConfigBase):
    """A Qwen-VL encoder."""

    model_type: Literal[ModelType.QwenVLEncoder] = Field(
        default=ModelType.QwenVLEncoder, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.QwenVLEncoder] | _EncoderFile = Field(
        default=ModelFormat.QwenVLEncoder, validation_alias=_FORMAT
    )


class Qwen3VLEncoderConfig(ModelConfigBase):
    """A Qwen3-VL encoder."""

    model_type: Literal[ModelType.Qwen3VLEncoder] = Field(
        default=ModelType.Qwen3VLEncoder, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.Qwen3VLEncoder] | _EncoderFile = Field(
        default=ModelFormat.Qwen3VLEncoder, validation_alias=_FORMAT
    )


class MistralEncoderConfig(ModelConfigBase):
    """A Mistral text encoder."""

    model_type: Literal[ModelType.MistralEncoder] = Field(
        default=ModelType.MistralEncoder, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.MistralEncoder] | _EncoderFile = Field(
        default=ModelFormat.MistralEncoder, validation_alias=_FORMAT
    )


class WanT5EncoderConfig(ModelConfigBase):
    """Wan's UMT5 text encoder."""

    model_type: Literal[ModelType.WanT5Encoder] = Field(
        default=ModelType.WanT5Encoder, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.WanT5Encoder] | _EncoderFile = Field(
        default=ModelFormat.WanT5Encoder, validation_alias=_FORMAT
    )


class Gemma2EncoderConfig(ModelConfigBase):
    """A Gemma 2 text encoder."""

    model_type: Literal[ModelType.Gemma2Encoder] = Field(
        default=ModelType.Gemma2Encoder, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.Gemma2Encoder] | _EncoderFile = Field(
        default=ModelFormat.Gemma2Encoder, validation_alias=_FORMAT
    )


class SpandrelImageToImageConfig(ModelConfigBase):
    """An upscaler or restorer that the spandrel library knows."""

    model_type: Literal[ModelType.SpandrelImageToImage] = Field(
        default=ModelType.SpandrelImageToImage, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.Checkpoint] = Field(
        default=ModelFormat.Checkpoint, validation_alias=_FORMAT
    )


class SigLIPConfig(DiffusersConfig):
    """A SigLIP image encoder."""

    model_type: Literal[ModelType.SigLIP] = Field(default=ModelType.SigLIP, validation_alias=_TYPE)


class FluxReduxConfig(ModelConfigBase):
    """A FLUX Redux image-prompt model."""

    model_type: Literal[ModelType.FluxRedux] = Field(default=ModelType.FluxRedux, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.Checkpoint, ModelFormat.Diffusers] = Field(
        default=ModelFormat.Checkpoint, validation_alias=_FORMAT
    )


class LlavaOnevisionConfig(DiffusersConfig):
    """A LLaVA OneVision vision-language model."""

    model_type: Literal[ModelType.LlavaOnevision] = Field(
        default=ModelType.LlavaOnevision, validation_alias=_TYPE
    )


class PromptEnhancerConfig(ModelConfigBase):
    """A model that rewrites prompts."""

    model_type: Literal[ModelType.PromptEnhancer] = Field(
        default=ModelType.PromptEnhancer, validation_alias=_TYPE
    )
    model_format: _EncoderFile = Field(default=ModelFormat.Diffusers, validation_alias=_FORMAT)


class TextLLMConfig(ModelConfigBase):
    """A language model."""

    model_type: Literal[ModelType.TextLLM] = Field(default=ModelType.TextLLM, validation_alias=_TYPE)
    model_format: _EncoderFile = Field(default=ModelFormat.Diffusers, validation_alias=_FORMAT)


class ExternalImageGeneratorConfig(ModelConfigBase):
    """A remote service that makes images; its path is its provider and model id."""

    model_type: Literal[ModelType.ExternalImageGenerator] = Field(
        default=ModelType.ExternalImageGenerator, validation_alias=_TYPE
    )
    model_format: Literal[ModelFormat.ExternalApi] = Field(
        default=ModelFormat.ExternalApi, validation_alias=_FORMAT
    )


class PiDDecoderConfig(ModelConfigBase):
    """A pixel-diffusion decoder."""

    model_type: Literal[ModelType.PiDDecoder] = Field(default=ModelType.PiDDecoder, validation_alias=_TYPE)
    model_format: Literal[ModelFormat.Checkpoint, ModelFormat.Diffusers] = Field(
        default=ModelFormat.Checkpoint, validation_alias=_FORMAT
    )


class UnknownConfig(ModelConfigBase):
    """A model of no known kind, or a record that this version cannot read.

    ``raw`` has the fields of such a record as they came, by their names on the wire; it is empty for
    a model that was never identified. Writing it back changes nothing that is not known here.
    """

    model_type: Literal[ModelType.Unknown] = Field(default=ModelType.Unknown, validation_alias=_TYPE)
    model_format: ModelFormat = Field(default=ModelFormat.Unknown, validation_alias=_FORMAT)
    base_model: BaseModelType = Field(default=BaseModelType.Unknown, validation_alias=_BASE)
    raw: dict[str, Any] = Field(default_factory=dict, description="The fields as they came.")
