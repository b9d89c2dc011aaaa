from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ModelType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_TYPE_UNSPECIFIED: _ClassVar[ModelType]
    MODEL_TYPE_MAIN: _ClassVar[ModelType]
    MODEL_TYPE_VAE: _ClassVar[ModelType]
    MODEL_TYPE_LORA: _ClassVar[ModelType]
    MODEL_TYPE_CONTROL_LORA: _ClassVar[ModelType]
    MODEL_TYPE_CONTROLNET: _ClassVar[ModelType]
    MODEL_TYPE_EMBEDDING: _ClassVar[ModelType]
    MODEL_TYPE_IP_ADAPTER: _ClassVar[ModelType]
    MODEL_TYPE_CLIP_VISION: _ClassVar[ModelType]
    MODEL_TYPE_CLIP_EMBED: _ClassVar[ModelType]
    MODEL_TYPE_T2I_ADAPTER: _ClassVar[ModelType]
    MODEL_TYPE_T5_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_QWEN3_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_QWEN_VL_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_QWEN3_VL_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_MISTRAL_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_WAN_T5_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_GEMMA2_ENCODER: _ClassVar[ModelType]
    MODEL_TYPE_SPANDREL_IMAGE_TO_IMAGE: _ClassVar[ModelType]
    MODEL_TYPE_SIGLIP: _ClassVar[ModelType]
    MODEL_TYPE_FLUX_REDUX: _ClassVar[ModelType]
    MODEL_TYPE_LLAVA_ONEVISION: _ClassVar[ModelType]
    MODEL_TYPE_PROMPT_ENHANCER: _ClassVar[ModelType]
    MODEL_TYPE_TEXT_LLM: _ClassVar[ModelType]
    MODEL_TYPE_EXTERNAL_IMAGE_GENERATOR: _ClassVar[ModelType]
    MODEL_TYPE_PID_DECODER: _ClassVar[ModelType]
    MODEL_TYPE_ONNX: _ClassVar[ModelType]
    MODEL_TYPE_UNKNOWN: _ClassVar[ModelType]

class ModelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_FORMAT_UNSPECIFIED: _ClassVar[ModelFormat]
    MODEL_FORMAT_DIFFUSERS: _ClassVar[ModelFormat]
    MODEL_FORMAT_CHECKPOINT: _ClassVar[ModelFormat]
    MODEL_FORMAT_LYCORIS: _ClassVar[ModelFormat]
    MODEL_FORMAT_ONNX: _ClassVar[ModelFormat]
    MODEL_FORMAT_OLIVE: _ClassVar[ModelFormat]
    MODEL_FORMAT_EMBEDDING_FILE: _ClassVar[ModelFormat]
    MODEL_FORMAT_EMBEDDING_FOLDER: _ClassVar[ModelFormat]
    MODEL_FORMAT_INVOKEAI: _ClassVar[ModelFormat]
    MODEL_FORMAT_OMI: _ClassVar[ModelFormat]
    MODEL_FORMAT_T5_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_QWEN3_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_QWEN_VL_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_QWEN3_VL_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_MISTRAL_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_WAN_T5_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_GEMMA2_ENCODER: _ClassVar[ModelFormat]
    MODEL_FORMAT_BNB_QUANTIZED_INT8B: _ClassVar[ModelFormat]
    MODEL_FORMAT_BNB_QUANTIZED_NF4B: _ClassVar[ModelFormat]
    MODEL_FORMAT_GGUF_QUANTIZED: _ClassVar[ModelFormat]
    MODEL_FORMAT_SDNQ_QUANTIZED: _ClassVar[ModelFormat]
    MODEL_FORMAT_EXTERNAL_API: _ClassVar[ModelFormat]
    MODEL_FORMAT_UNKNOWN: _ClassVar[ModelFormat]

class SubModelType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUB_MODEL_TYPE_UNSPECIFIED: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_UNET: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TRANSFORMER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TRANSFORMER_2: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TEXT_ENCODER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TEXT_ENCODER_2: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TEXT_ENCODER_3: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TOKENIZER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TOKENIZER_2: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_TOKENIZER_3: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_PE: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_PE_TOKENIZER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_VAE: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_VAE_DECODER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_VAE_ENCODER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_SCHEDULER: _ClassVar[SubModelType]
    SUB_MODEL_TYPE_SAFETY_CHECKER: _ClassVar[SubModelType]

class ModelVariant(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_VARIANT_UNSPECIFIED: _ClassVar[ModelVariant]
    MODEL_VARIANT_NORMAL: _ClassVar[ModelVariant]
    MODEL_VARIANT_INPAINT: _ClassVar[ModelVariant]
    MODEL_VARIANT_DEPTH: _ClassVar[ModelVariant]

class PredictionType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PREDICTION_TYPE_UNSPECIFIED: _ClassVar[PredictionType]
    PREDICTION_TYPE_EPSILON: _ClassVar[PredictionType]
    PREDICTION_TYPE_V_PREDICTION: _ClassVar[PredictionType]
    PREDICTION_TYPE_SAMPLE: _ClassVar[PredictionType]

class ModelSourceType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_SOURCE_TYPE_UNSPECIFIED: _ClassVar[ModelSourceType]
    MODEL_SOURCE_TYPE_PATH: _ClassVar[ModelSourceType]
    MODEL_SOURCE_TYPE_URL: _ClassVar[ModelSourceType]
    MODEL_SOURCE_TYPE_HF_REPO_ID: _ClassVar[ModelSourceType]
    MODEL_SOURCE_TYPE_CIVITAI: _ClassVar[ModelSourceType]
    MODEL_SOURCE_TYPE_EXTERNAL: _ClassVar[ModelSourceType]
MODEL_TYPE_UNSPECIFIED: ModelType
MODEL_TYPE_MAIN: ModelType
MODEL_TYPE_VAE: ModelType
MODEL_TYPE_LORA: ModelType
MODEL_TYPE_CONTROL_LORA: ModelType
MODEL_TYPE_CONTROLNET: ModelType
MODEL_TYPE_EMBEDDING: ModelType
MODEL_TYPE_IP_ADAPTER: ModelType
MODEL_TYPE_CLIP_VISION: ModelType
MODEL_TYPE_CLIP_EMBED: ModelType
MODEL_TYPE_T2I_ADAPTER: ModelType
MODEL_TYPE_T5_ENCODER: ModelType
MODEL_TYPE_QWEN3_ENCODER: ModelType
MODEL_TYPE_QWEN_VL_ENCODER: ModelType
MODEL_TYPE_QWEN3_VL_ENCODER: ModelType
MODEL_TYPE_MISTRAL_ENCODER: ModelType
MODEL_TYPE_WAN_T5_ENCODER: ModelType
MODEL_TYPE_GEMMA2_ENCODER: ModelType
MODEL_TYPE_SPANDREL_IMAGE_TO_IMAGE: ModelType
MODEL_TYPE_SIGLIP: ModelType
MODEL_TYPE_FLUX_REDUX: ModelType
MODEL_TYPE_LLAVA_ONEVISION: ModelType
MODEL_TYPE_PROMPT_ENHANCER: ModelType
MODEL_TYPE_TEXT_LLM: ModelType
MODEL_TYPE_EXTERNAL_IMAGE_GENERATOR: ModelType
MODEL_TYPE_PID_DECODER: ModelType
MODEL_TYPE_ONNX: ModelType
MODEL_TYPE_UNKNOWN: ModelType
MODEL_FORMAT_UNSPECIFIED: ModelFormat
MODEL_FORMAT_DIFFUSERS: ModelFormat
MODEL_FORMAT_CHECKPOINT: ModelFormat
MODEL_FORMAT_LYCORIS: ModelFormat
MODEL_FORMAT_ONNX: ModelFormat
MODEL_FORMAT_OLIVE: ModelFormat
MODEL_FORMAT_EMBEDDING_FILE: ModelFormat
MODEL_FORMAT_EMBEDDING_FOLDER: ModelFormat
MODEL_FORMAT_INVOKEAI: ModelFormat
MODEL_FORMAT_OMI: ModelFormat
MODEL_FORMAT_T5_ENCODER: ModelFormat
MODEL_FORMAT_QWEN3_ENCODER: ModelFormat
MODEL_FORMAT_QWEN_VL_ENCODER: ModelFormat
MODEL_FORMAT_QWEN3_VL_ENCODER: ModelFormat
MODEL_FORMAT_MISTRAL_ENCODER: ModelFormat
MODEL_FORMAT_WAN_T5_ENCODER: ModelFormat
MODEL_FORMAT_GEMMA2_ENCODER: ModelFormat
MODEL_FORMAT_BNB_QUANTIZED_INT8B: ModelFormat
MODEL_FORMAT_BNB_QUANTIZED_NF4B: ModelFormat
MODEL_FORMAT_GGUF_QUANTIZED: ModelFormat
MODEL_FORMAT_SDNQ_QUANTIZED: ModelFormat
MODEL_FORMAT_EXTERNAL_API: ModelFormat
MODEL_FORMAT_UNKNOWN: ModelFormat
SUB_MODEL_TYPE_UNSPECIFIED: SubModelType
SUB_MODEL_TYPE_UNET: SubModelType
SUB_MODEL_TYPE_TRANSFORMER: SubModelType
SUB_MODEL_TYPE_TRANSFORMER_2: SubModelType
SUB_MODEL_TYPE_TEXT_ENCODER: SubModelType
SUB_MODEL_TYPE_TEXT_ENCODER_2: SubModelType
SUB_MODEL_TYPE_TEXT_ENCODER_3: SubModelType
SUB_MODEL_TYPE_TOKENIZER: SubModelType
SUB_MODEL_TYPE_TOKENIZER_2: SubModelType
SUB_MODEL_TYPE_TOKENIZER_3: SubModelType
SUB_MODEL_TYPE_PE: SubModelType
SUB_MODEL_TYPE_PE_TOKENIZER: SubModelType
SUB_MODEL_TYPE_VAE: SubModelType
SUB_MODEL_TYPE_VAE_DECODER: SubModelType
SUB_MODEL_TYPE_VAE_ENCODER: SubModelType
SUB_MODEL_TYPE_SCHEDULER: SubModelType
SUB_MODEL_TYPE_SAFETY_CHECKER: SubModelType
MODEL_VARIANT_UNSPECIFIED: ModelVariant
MODEL_VARIANT_NORMAL: ModelVariant
MODEL_VARIANT_INPAINT: ModelVariant
MODEL_VARIANT_DEPTH: ModelVariant
PREDICTION_TYPE_UNSPECIFIED: PredictionType
PREDICTION_TYPE_EPSILON: PredictionType
PREDICTION_TYPE_V_PREDICTION: PredictionType
PREDICTION_TYPE_SAMPLE: PredictionType
MODEL_SOURCE_TYPE_UNSPECIFIED: ModelSourceType
MODEL_SOURCE_TYPE_PATH: ModelSourceType
MODEL_SOURCE_TYPE_URL: ModelSourceType
MODEL_SOURCE_TYPE_HF_REPO_ID: ModelSourceType
MODEL_SOURCE_TYPE_CIVITAI: ModelSourceType
MODEL_SOURCE_TYPE_EXTERNAL: ModelSourceType
