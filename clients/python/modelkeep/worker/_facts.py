"""What messages of the loader, and the host, say, in the words of the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelkeep.loader.v1 import resident_pb2
from modelkeep.messages import none_of
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.taxonomy import BaseModelType, ModelType, SubModelType


def submodel_of(component: resident_pb2.ComponentRef) -> SubModelType | None:
    """Which component of a main model is meant; None for a model that is one."""
    name = taxonomy_pb2.SubModelType.Name(component.submodel).removeprefix("SUB_MODEL_TYPE_").lower()
    return None if name == "unspecified" else SubModelType(name)


def type_of(
    component: resident_pb2.ComponentRef, manifest: resident_pb2.ComponentManifest
) -> ModelType | SubModelType:
    """The component of a main model, else the model's type."""
    submodel = submodel_of(component)
    if submodel is not None:
        return submodel
    return ModelType(taxonomy_pb2.ModelType.Name(manifest.type).removeprefix("MODEL_TYPE_").lower())


def base_of(text: str) -> BaseModelType | str:
    """A family; a plain string where this version does not know it."""
    try:
        return BaseModelType(text)
    except ValueError:
        return text


def boot_id() -> str:
    """Of this host; "" where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def refuse_unknown_parts(there: Sequence[str], **said: Any) -> None:
    """Refuse what is said, in a mapping, of a component that the model has not."""
    known = [*there, "default"]
    for field, by_part in said.items():
        if isinstance(by_part, Mapping):
            for part in by_part:
                if part not in known:
                    raise none_of(field, part, known)
