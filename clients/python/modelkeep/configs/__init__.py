"""What is known about a model, as pydantic classes: one for each kind, with the original's names.

::

    from modelkeep.configs import AnyModelConfig, ModelConfigFactory, VaeDiffusersConfig

    config = ModelConfigFactory.make_config(
        {"name": "vae-ft-mse", "path": "vae/ft-mse", "type": "vae", "format": "diffusers", "base": "sd-1"}
    )
    assert isinstance(config, VaeDiffusersConfig)

The enums are re-exported, as the original did. Neither torch, grpc nor protobuf is imported;
:mod:`modelkeep.configs.wire` (protobuf) turns configs into messages and back.
"""

from __future__ import annotations

from modelkeep.configs._base import (
    CheckpointConfig,
    CoverImage,
    DiffusersConfig,
    License,
    ModelConfigBase,
    ModelFile,
    SubmodelDefinition,
)
from modelkeep.configs._default_settings import DefaultSettings
from modelkeep.configs._kinds import (
    CLIPEmbedConfig,
    CLIPVisionConfig,
    CLIPVisionDiffusersConfig,
    ControlLoRAConfig,
    ControlNetCheckpointConfig,
    ControlNetConfig,
    ControlNetDiffusersConfig,
    ExternalImageGeneratorConfig,
    FluxReduxConfig,
    Gemma2EncoderConfig,
    IPAdapterConfig,
    LlavaOnevisionConfig,
    LoRAConfig,
    MainCheckpointConfig,
    MainConfig,
    MainDiffusersConfig,
    MistralEncoderConfig,
    ONNXConfig,
    ONNXSD1Config,
    ONNXSD2Config,
    PiDDecoderConfig,
    PromptEnhancerConfig,
    Qwen3EncoderConfig,
    Qwen3VLEncoderConfig,
    QwenVLEncoderConfig,
    SigLIPConfig,
    SpandrelImageToImageConfig,
    T2IConfig,
    T5EncoderConfig,
    TextLLMConfig,
    TextualInversionConfig,
    UnknownConfig,
    VaeCheckpointConfig,
    VaeConfig,
    VaeDiffusersConfig,
    WanT5EncoderConfig,
)
from modelkeep.configs._union import (
    CONFIG_CLASSES,
    AnyModelConfig,
    ModelConfigFactory,
    config_class,
    field_types,
    formats_of,
)
from modelkeep.exceptions import InvalidModelConfigException
from modelkeep.taxonomy import (
    BaseModelType,
    DigestState,
    ModelFormat,
    ModelSourceType,
    ModelType,
    ModelVariantType,
    SchedulerPredictionType,
    SubModelType,
)

__all__ = [
    "CONFIG_CLASSES",
    "AnyModelConfig",
    "BaseModelType",
    "CLIPEmbedConfig",
    "CLIPVisionConfig",
    "CLIPVisionDiffusersConfig",
    "CheckpointConfig",
    "ControlLoRAConfig",
    "ControlNetCheckpointConfig",
    "ControlNetConfig",
    "ControlNetDiffusersConfig",
    "CoverImage",
    "DefaultSettings",
    "DiffusersConfig",
    "DigestState",
    "ExternalImageGeneratorConfig",
    "FluxReduxConfig",
    "Gemma2EncoderConfig",
    "IPAdapterConfig",
    "InvalidModelConfigException",
    "License",
    "LlavaOnevisionConfig",
    "LoRAConfig",
    "MainCheckpointConfig",
    "MainConfig",
    "MainDiffusersConfig",
    "MistralEncoderConfig",
    "ModelConfigBase",
    "ModelConfigFactory",
    "ModelFile",
    "ModelFormat",
    "ModelSourceType",
    "ModelType",
    "ModelVariantType",
    "ONNXConfig",
    "ONNXSD1Config",
    "ONNXSD2Config",
    "PiDDecoderConfig",
    "PromptEnhancerConfig",
    "Qwen3EncoderConfig",
    "Qwen3VLEncoderConfig",
    "QwenVLEncoderConfig",
    "SchedulerPredictionType",
    "SigLIPConfig",
    "SpandrelImageToImageConfig",
    "SubModelType",
    "SubmodelDefinition",
    "T2IConfig",
    "T5EncoderConfig",
    "TextLLMConfig",
    "TextualInversionConfig",
    "UnknownConfig",
    "VaeCheckpointConfig",
    "VaeConfig",
    "VaeDiffusersConfig",
    "WanT5EncoderConfig",
    "config_class",
    "field_types",
    "formats_of",
]
