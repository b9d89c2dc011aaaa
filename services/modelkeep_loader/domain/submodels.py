"""What is said to whoever asks a main model for a component that it has not, or for none."""

from __future__ import annotations

from collections.abc import Mapping

from modelkeep.exceptions import SubmodelRequiredException, UnknownSubmodelException
from modelkeep_loader.domain.records import Record

#: Components that can be asked for → reason why one cannot be lent; "" if it can.
Parts = Mapping[str, str]


def none_named(record: Record, parts: Parts) -> SubmodelRequiredException:
    """A main model, and no component was named."""
    return SubmodelRequiredException(
        f"{record.name!r} is a main model: say which component. {_told(parts)}",
        metadata={
            "key": record.key,
            "available": ",".join(parts),
            "loadable": ",".join(_loadable(parts)),
        },
        remedy=_choice(parts),
    )


def not_there(record: Record, submodel: str, parts: Parts, why: str = "") -> UnknownSubmodelException:
    """A component was named that the model has not.

    Args:
        record: The model.
        submodel: What was named.
        parts: What there is.
        why: Why it has none; a sentence.
    """
    return UnknownSubmodelException(
        f"{record.name!r} has no component {submodel}. {f'{why} ' if why else ''}{_told(parts)}",
        metadata={"key": record.key, "submodel": submodel, "loadable": ",".join(_loadable(parts))},
        remedy=_choice(parts),
    )


def _loadable(parts: Parts) -> list[str]:
    return [name for name, why in parts.items() if not why]


def _choice(parts: Parts) -> str:
    if can := _loadable(parts):
        return f"Name one of the components that can be lent: {', '.join(can)}."
    return "Install the model with weights in safetensors files, in diffusers' layout."


def _told(parts: Parts) -> str:
    can, others = _loadable(parts), [f"{name} ({why})" for name, why in parts.items() if why]
    said = f"It can lend {', '.join(can)}." if can else "It has none that can be lent."
    return f"{said} It cannot lend {', '.join(others)}." if others else said
