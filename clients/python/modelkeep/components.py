"""Components as callers name them: in which precision and form, and on which device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, get_args

from modelkeep.dtypes import MEMORY_FORMATS, WEIGHT_FORMS, MemoryFormat, Precision, WeightForm
from modelkeep.loader.v1 import resident_pb2
from modelkeep.messages import made, none_of, wire
from modelkeep.taxonomy import SubModelType

N = TypeVar("N", bound=str)

_SHORT: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_FORMS: Final[tuple[WeightForm, ...]] = get_args(WeightForm)
_MEMORY_FORMATS: Final[tuple[MemoryFormat, ...]] = get_args(MemoryFormat)
_PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


def precision_name(precision: Any) -> Precision:
    """A precision's name: "auto", "float32", "float16", "bfloat16"; torch's dtypes and fp16 etc. will do.

    Raises:
        FieldInvalidException: It is none of these.
    """
    text = str(precision).removeprefix("torch.").lower()
    return _one_of(_PRECISIONS, _SHORT.get(text, text), precision, "precision")


def weight_form(weights: str) -> WeightForm:
    """A form of weights by its name.

    Raises:
        FieldInvalidException: There is no such form.
    """
    return _one_of(_FORMS, weights.lower(), weights, "weights")


def memory_format_name(memory_format: Any) -> MemoryFormat:
    """A memory format's name: "contiguous" or "channels_last"; torch's own will do.

    Raises:
        FieldInvalidException: It is neither.
    """
    text = str(memory_format).removeprefix("torch.").removesuffix("_format").lower()
    return _one_of(_MEMORY_FORMATS, text, memory_format, "memory_format")


def _one_of(known: Sequence[N], text: str, said: Any, field: str) -> N:
    """The one of some names that a text is, whatever was said; else the field that said it is refused."""
    found = next((name for name in known if name == text), None)
    if found is None:
        raise none_of(field, str(said), known)
    return found


def by_part(said: Any, name_of: Callable[[Any], N]) -> N | dict[str, N]:
    """A name, or in a mapping one for each component of a pipeline."""
    if isinstance(said, Mapping):
        return {part: name_of(one) for part, one in said.items()}
    return name_of(said)


def component(
    key: str,
    submodel: SubModelType | str | None = None,
    precision: Any = "auto",
    weights: WeightForm = "auto",
    memory_format: Any = "contiguous",
    device: Any = "auto",
) -> resident_pb2.ComponentRef:
    """The message that names a component."""
    return made(
        resident_pb2.ComponentRef,
        key=key,
        submodel=wire(SubModelType, submodel, "submodel") if submodel else None,
        precision=f"PRECISION_{precision_name(precision).upper()}",
        weights=WEIGHT_FORMS[weight_form(weights)],
        memory_format=None if memory_format is None else MEMORY_FORMATS[memory_format_name(memory_format)],
        device=str(device),
    )


def components(
    key: str,
    submodels: SubModelType | str | Iterable[SubModelType | str],
    precision: Any,
    weights: WeightForm = "auto",
    memory_format: Any = "contiguous",
    device: Any = "auto",
) -> list[resident_pb2.ComponentRef]:
    """The messages that name components of a model: the one that it is, where none is named."""
    named = [submodels] if isinstance(submodels, str) else submodels
    which: list[SubModelType | str | None] = list(named) or [None]
    return [component(key, name, precision, weights, memory_format, device) for name in which]
