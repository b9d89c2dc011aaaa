from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DefaultSettings(_message.Message):
    __slots__ = ("vae", "vae_precision", "scheduler", "steps", "cfg_scale", "cfg_rescale_multiplier", "width", "height", "guidance", "cpu_only", "fp8_storage", "weight", "weight_min", "weight_max", "preprocessor")
    VAE_FIELD_NUMBER: _ClassVar[int]
    VAE_PRECISION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CFG_SCALE_FIELD_NUMBER: _ClassVar[int]
    CFG_RESCALE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    CPU_ONLY_FIELD_NUMBER: _ClassVar[int]
    FP8_STORAGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_MIN_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSOR_FIELD_NUMBER: _ClassVar[int]
    vae: str
    vae_precision: str
    scheduler: str
    steps: int
    cfg_scale: float
    cfg_rescale_multiplier: float
    width: int
    height: int
    guidance: float
    cpu_only: bool
    fp8_storage: bool
    weight: float
    weight_min: float
    weight_max: float
    preprocessor: str
    def __init__(self, vae: _Optional[str] = ..., vae_precision: _Optional[str] = ..., scheduler: _Optional[str] = ..., steps: _Optional[int] = ..., cfg_scale: _Optional[float] = ..., cfg_rescale_multiplier: _Optional[float] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., guidance: _Optional[float] = ..., cpu_only: _Optional[bool] = ..., fp8_storage: _Optional[bool] = ..., weight: _Optional[float] = ..., weight_min: _Optional[float] = ..., weight_max: _Optional[float] = ..., preprocessor: _Optional[str] = ...) -> None: ...
