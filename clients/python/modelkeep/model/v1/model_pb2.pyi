import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from modelkeep.model.v1 import cover_image_pb2 as _cover_image_pb2
from modelkeep.model.v1 import default_settings_pb2 as _default_settings_pb2
from modelkeep.model.v1 import taxonomy_pb2 as _taxonomy_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DigestState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIGEST_STATE_UNSPECIFIED: _ClassVar[DigestState]
    DIGEST_STATE_PENDING: _ClassVar[DigestState]
    DIGEST_STATE_COMPUTED: _ClassVar[DigestState]
    DIGEST_STATE_VERIFIED: _ClassVar[DigestState]
    DIGEST_STATE_FAILED: _ClassVar[DigestState]
DIGEST_STATE_UNSPECIFIED: DigestState
DIGEST_STATE_PENDING: DigestState
DIGEST_STATE_COMPUTED: DigestState
DIGEST_STATE_VERIFIED: DigestState
DIGEST_STATE_FAILED: DigestState

class Model(_message.Message):
    __slots__ = ("key", "etag", "name", "type", "format", "base", "compatible_bases", "path", "root_id", "size_bytes", "original_hash", "current_hash", "description", "source", "source_type", "tags", "trigger_phrases", "license", "create_time", "update_time", "revision", "labels", "missing_time", "preview_url", "source_url", "default_settings", "related_keys", "extra_fields", "cover_image", "main", "vae", "lora", "control_lora", "controlnet", "embedding", "ip_adapter", "clip_vision", "clip_embed", "t2i_adapter", "t5_encoder", "qwen3_encoder", "qwen_vl_encoder", "qwen3_vl_encoder", "mistral_encoder", "wan_t5_encoder", "gemma2_encoder", "spandrel_image_to_image", "siglip", "flux_redux", "llava_onevision", "prompt_enhancer", "text_llm", "external_image_generator", "pid_decoder", "onnx", "unknown")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ExtraFieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_BASES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_HASH_FIELD_NUMBER: _ClassVar[int]
    CURRENT_HASH_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_PHRASES_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MISSING_TIME_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_URL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_URL_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    RELATED_KEYS_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELDS_FIELD_NUMBER: _ClassVar[int]
    COVER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAIN_FIELD_NUMBER: _ClassVar[int]
    VAE_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    CONTROL_LORA_FIELD_NUMBER: _ClassVar[int]
    CONTROLNET_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    IP_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    CLIP_VISION_FIELD_NUMBER: _ClassVar[int]
    CLIP_EMBED_FIELD_NUMBER: _ClassVar[int]
    T2I_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    T5_ENCODER_FIELD_NUMBER: _ClassVar[int]
    QWEN3_ENCODER_FIELD_NUMBER: _ClassVar[int]
    QWEN_VL_ENCODER_FIELD_NUMBER: _ClassVar[int]
    QWEN3_VL_ENCODER_FIELD_NUMBER: _ClassVar[int]
    MISTRAL_ENCODER_FIELD_NUMBER: _ClassVar[int]
    WAN_T5_ENCODER_FIELD_NUMBER: _ClassVar[int]
    GEMMA2_ENCODER_FIELD_NUMBER: _ClassVar[int]
    SPANDREL_IMAGE_TO_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIGLIP_FIELD_NUMBER: _ClassVar[int]
    FLUX_REDUX_FIELD_NUMBER: _ClassVar[int]
    LLAVA_ONEVISION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ENHANCER_FIELD_NUMBER: _ClassVar[int]
    TEXT_LLM_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_IMAGE_GENERATOR_FIELD_NUMBER: _ClassVar[int]
    PID_DECODER_FIELD_NUMBER: _ClassVar[int]
    ONNX_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    key: str
    etag: str
    name: str
    type: _taxonomy_pb2.ModelType
    format: _taxonomy_pb2.ModelFormat
    base: str
    compatible_bases: _containers.RepeatedScalarFieldContainer[str]
    path: str
    root_id: str
    size_bytes: int
    original_hash: str
    current_hash: str
    description: str
    source: str
    source_type: _taxonomy_pb2.ModelSourceType
    tags: _containers.RepeatedScalarFieldContainer[str]
    trigger_phrases: _containers.RepeatedScalarFieldContainer[str]
    license: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    revision: int
    labels: _containers.ScalarMap[str, str]
    missing_time: _timestamp_pb2.Timestamp
    preview_url: str
    source_url: str
    default_settings: _default_settings_pb2.DefaultSettings
    related_keys: _containers.RepeatedScalarFieldContainer[str]
    extra_fields: _containers.ScalarMap[str, str]
    cover_image: _cover_image_pb2.CoverImage
    main: MainConfig
    vae: VaeConfig
    lora: LoraConfig
    control_lora: ControlLoraConfig
    controlnet: ControlNetConfig
    embedding: TextualInversionConfig
    ip_adapter: IpAdapterConfig
    clip_vision: ClipVisionConfig
    clip_embed: ClipEmbedConfig
    t2i_adapter: T2iAdapterConfig
    t5_encoder: T5EncoderConfig
    qwen3_encoder: Qwen3EncoderConfig
    qwen_vl_encoder: QwenVlEncoderConfig
    qwen3_vl_encoder: Qwen3VlEncoderConfig
    mistral_encoder: MistralEncoderConfig
    wan_t5_encoder: WanT5EncoderConfig
    gemma2_encoder: Gemma2EncoderConfig
    spandrel_image_to_image: SpandrelImageToImageConfig
    siglip: SiglipConfig
    flux_redux: FluxReduxConfig
    llava_onevision: LlavaOnevisionConfig
    prompt_enhancer: PromptEnhancerConfig
    text_llm: TextLlmConfig
    external_image_generator: ExternalImageGeneratorConfig
    pid_decoder: PidDecoderConfig
    onnx: OnnxConfig
    unknown: UnknownConfig
    def __init__(self, key: _Optional[str] = ..., etag: _Optional[str] = ..., name: _Optional[str] = ..., type: _Optional[_Union[_taxonomy_pb2.ModelType, str]] = ..., format: _Optional[_Union[_taxonomy_pb2.ModelFormat, str]] = ..., base: _Optional[str] = ..., compatible_bases: _Optional[_Iterable[str]] = ..., path: _Optional[str] = ..., root_id: _Optional[str] = ..., size_bytes: _Optional[int] = ..., original_hash: _Optional[str] = ..., current_hash: _Optional[str] = ..., description: _Optional[str] = ..., source: _Optional[str] = ..., source_type: _Optional[_Union[_taxonomy_pb2.ModelSourceType, str]] = ..., tags: _Optional[_Iterable[str]] = ..., trigger_phrases: _Optional[_Iterable[str]] = ..., license: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., missing_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., preview_url: _Optional[str] = ..., source_url: _Optional[str] = ..., default_settings: _Optional[_Union[_default_settings_pb2.DefaultSettings, _Mapping]] = ..., related_keys: _Optional[_Iterable[str]] = ..., extra_fields: _Optional[_Mapping[str, str]] = ..., cover_image: _Optional[_Union[_cover_image_pb2.CoverImage, _Mapping]] = ..., main: _Optional[_Union[MainConfig, _Mapping]] = ..., vae: _Optional[_Union[VaeConfig, _Mapping]] = ..., lora: _Optional[_Union[LoraConfig, _Mapping]] = ..., control_lora: _Optional[_Union[ControlLoraConfig, _Mapping]] = ..., controlnet: _Optional[_Union[ControlNetConfig, _Mapping]] = ..., embedding: _Optional[_Union[TextualInversionConfig, _Mapping]] = ..., ip_adapter: _Optional[_Union[IpAdapterConfig, _Mapping]] = ..., clip_vision: _Optional[_Union[ClipVisionConfig, _Mapping]] = ..., clip_embed: _Optional[_Union[ClipEmbedConfig, _Mapping]] = ..., t2i_adapter: _Optional[_Union[T2iAdapterConfig, _Mapping]] = ..., t5_encoder: _Optional[_Union[T5EncoderConfig, _Mapping]] = ..., qwen3_encoder: _Optional[_Union[Qwen3EncoderConfig, _Mapping]] = ..., qwen_vl_encoder: _Optional[_Union[QwenVlEncoderConfig, _Mapping]] = ..., qwen3_vl_encoder: _Optional[_Union[Qwen3VlEncoderConfig, _Mapping]] = ..., mistral_encoder: _Optional[_Union[MistralEncoderConfig, _Mapping]] = ..., wan_t5_encoder: _Optional[_Union[WanT5EncoderConfig, _Mapping]] = ..., gemma2_encoder: _Optional[_Union[Gemma2EncoderConfig, _Mapping]] = ..., spandrel_image_to_image: _Optional[_Union[SpandrelImageToImageConfig, _Mapping]] = ..., siglip: _Optional[_Union[SiglipConfig, _Mapping]] = ..., flux_redux: _Optional[_Union[FluxReduxConfig, _Mapping]] = ..., llava_onevision: _Optional[_Union[LlavaOnevisionConfig, _Mapping]] = ..., prompt_enhancer: _Optional[_Union[PromptEnhancerConfig, _Mapping]] = ..., text_llm: _Optional[_Union[TextLlmConfig, _Mapping]] = ..., external_image_generator: _Optional[_Union[ExternalImageGeneratorConfig, _Mapping]] = ..., pid_decoder: _Optional[_Union[PidDecoderConfig, _Mapping]] = ..., onnx: _Optional[_Union[OnnxConfig, _Mapping]] = ..., unknown: _Optional[_Union[UnknownConfig, _Mapping]] = ...) -> None: ...

class Submodel(_message.Message):
    __slots__ = ("type", "path_or_prefix", "class_name", "library")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PATH_OR_PREFIX_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    type: _taxonomy_pb2.SubModelType
    path_or_prefix: str
    class_name: str
    library: str
    def __init__(self, type: _Optional[_Union[_taxonomy_pb2.SubModelType, str]] = ..., path_or_prefix: _Optional[str] = ..., class_name: _Optional[str] = ..., library: _Optional[str] = ...) -> None: ...

class ModelFile(_message.Message):
    __slots__ = ("path", "size_bytes", "modify_time", "sha256", "blake3", "digest_state")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODIFY_TIME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BLAKE3_FIELD_NUMBER: _ClassVar[int]
    DIGEST_STATE_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    modify_time: _timestamp_pb2.Timestamp
    sha256: str
    blake3: str
    digest_state: DigestState
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., modify_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sha256: _Optional[str] = ..., blake3: _Optional[str] = ..., digest_state: _Optional[_Union[DigestState, str]] = ...) -> None: ...

class MainConfig(_message.Message):
    __slots__ = ("vae", "variant", "prediction_type", "upcast_attention", "checkpoint_config", "family_variant", "submodels")
    VAE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_TYPE_FIELD_NUMBER: _ClassVar[int]
    UPCAST_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    FAMILY_VARIANT_FIELD_NUMBER: _ClassVar[int]
    SUBMODELS_FIELD_NUMBER: _ClassVar[int]
    vae: str
    variant: _taxonomy_pb2.ModelVariant
    prediction_type: _taxonomy_pb2.PredictionType
    upcast_attention: bool
    checkpoint_config: str
    family_variant: str
    submodels: _containers.RepeatedCompositeFieldContainer[Submodel]
    def __init__(self, vae: _Optional[str] = ..., variant: _Optional[_Union[_taxonomy_pb2.ModelVariant, str]] = ..., prediction_type: _Optional[_Union[_taxonomy_pb2.PredictionType, str]] = ..., upcast_attention: _Optional[bool] = ..., checkpoint_config: _Optional[str] = ..., family_variant: _Optional[str] = ..., submodels: _Optional[_Iterable[_Union[Submodel, _Mapping]]] = ...) -> None: ...

class VaeConfig(_message.Message):
    __slots__ = ("checkpoint_config", "scaling_factor")
    CHECKPOINT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    SCALING_FACTOR_FIELD_NUMBER: _ClassVar[int]
    checkpoint_config: str
    scaling_factor: float
    def __init__(self, checkpoint_config: _Optional[str] = ..., scaling_factor: _Optional[float] = ...) -> None: ...

class LoraConfig(_message.Message):
    __slots__ = ("rank", "key_layout")
    RANK_FIELD_NUMBER: _ClassVar[int]
    KEY_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    rank: int
    key_layout: str
    def __init__(self, rank: _Optional[int] = ..., key_layout: _Optional[str] = ...) -> None: ...

class ControlLoraConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlNetConfig(_message.Message):
    __slots__ = ("checkpoint_config",)
    CHECKPOINT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    checkpoint_config: str
    def __init__(self, checkpoint_config: _Optional[str] = ...) -> None: ...

class TextualInversionConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IpAdapterConfig(_message.Message):
    __slots__ = ("image_encoder",)
    IMAGE_ENCODER_FIELD_NUMBER: _ClassVar[int]
    image_encoder: str
    def __init__(self, image_encoder: _Optional[str] = ...) -> None: ...

class ClipVisionConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClipEmbedConfig(_message.Message):
    __slots__ = ("family_variant",)
    FAMILY_VARIANT_FIELD_NUMBER: _ClassVar[int]
    family_variant: str
    def __init__(self, family_variant: _Optional[str] = ...) -> None: ...

class T2iAdapterConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class T5EncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Qwen3EncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class QwenVlEncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Qwen3VlEncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MistralEncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WanT5EncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Gemma2EncoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SpandrelImageToImageConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SiglipConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FluxReduxConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LlavaOnevisionConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PromptEnhancerConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TextLlmConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExternalImageGeneratorConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PidDecoderConfig(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OnnxConfig(_message.Message):
    __slots__ = ("prediction_type", "upcast_attention", "vae", "variant")
    PREDICTION_TYPE_FIELD_NUMBER: _ClassVar[int]
    UPCAST_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    VAE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    prediction_type: _taxonomy_pb2.PredictionType
    upcast_attention: bool
    vae: str
    variant: _taxonomy_pb2.ModelVariant
    def __init__(self, prediction_type: _Optional[_Union[_taxonomy_pb2.PredictionType, str]] = ..., upcast_attention: _Optional[bool] = ..., vae: _Optional[str] = ..., variant: _Optional[_Union[_taxonomy_pb2.ModelVariant, str]] = ...) -> None: ...

class UnknownConfig(_message.Message):
    __slots__ = ("raw_json",)
    RAW_JSON_FIELD_NUMBER: _ClassVar[int]
    raw_json: str
    def __init__(self, raw_json: _Optional[str] = ...) -> None: ...
