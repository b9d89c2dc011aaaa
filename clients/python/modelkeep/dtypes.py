"""Element types of safetensors files, and the precisions among them that can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

#: Name of a precision; "auto" is that of the model's files.
Precision: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]
#: Form that weights are lent in: dequantised, as quantised files store them, or cast to float8.
WeightForm: TypeAlias = Literal["auto", "stored", "dequantised", "float8"]
#: Its name on the wire.
WEIGHT_FORMS: Final[Mapping[str, str]] = {
    "auto": "WEIGHT_FORM_AUTO",
    "stored": "WEIGHT_FORM_AS_STORED",
    "dequantised": "WEIGHT_FORM_DEQUANTISED",
    "float8": "WEIGHT_FORM_FLOAT8",
}
#: Order in which the numbers of tensors of four dimensions lie, by torch's names.
MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]
#: Its name on the wire.
MEMORY_FORMATS: Final[Mapping[str, str]] = {
    "contiguous": "MEMORY_FORMAT_CONTIGUOUS",
    "channels_last": "MEMORY_FORMAT_CHANNELS_LAST",
}


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type of the format.

    Attributes:
        name: What torch calls it; empty for those that it has not.
        bits: What an element takes.
        is_float: Whether a cast to another precision applies to it.
        lendable: Whether it can be read one element at a time and cast; complex and packed ones cannot.
    """

    name: str
    bits: int
    is_float: bool = False
    lendable: bool = True


#: By the code that headers have.
DTYPES: Final[Mapping[str, Dtype]] = {
    "BOOL": Dtype("bool", 8),
    "U8": Dtype("uint8", 8),
    "I8": Dtype("int8", 8),
    "F8_E4M3": Dtype("float8_e4m3fn", 8, is_float=True),
    "F8_E5M2": Dtype("float8_e5m2", 8, is_float=True),
    "F8_E4M3FNUZ": Dtype("float8_e4m3fnuz", 8, is_float=True),
    "F8_E5M2FNUZ": Dtype("float8_e5m2fnuz", 8, is_float=True),
    "F8_E8M0": Dtype("float8_e8m0fnu", 8, is_float=True),
    "F4": Dtype("", 4, is_float=True, lendable=False),
    "F6_E2M3": Dtype("", 6, is_float=True, lendable=False),
    "F6_E3M2": Dtype("", 6, is_float=True, lendable=False),
    "I16": Dtype("int16", 16),
    "U16": Dtype("uint16", 16),
    "F16": Dtype("float16", 16, is_float=True),
    "BF16": Dtype("bfloat16", 16, is_float=True),
    "I32": Dtype("int32", 32),
    "U32": Dtype("uint32", 32),
    "F32": Dtype("float32", 32, is_float=True),
    "C64": Dtype("complex64", 64, lendable=False),
    "F64": Dtype("float64", 64, is_float=True),
    "I64": Dtype("int64", 64),
    "U64": Dtype("uint64", 64),
}
#: Precisions that weights can be had in, and their codes.
PRECISIONS: Final[Mapping[str, str]] = {DTYPES[code].name: code for code in ("F32", "F16", "BF16")}
