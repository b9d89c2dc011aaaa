"""Whether a record here says what InvokeAI's says, and who changed it since it was imported.

An import leaves a fingerprint of what InvokeAI said in a label of the record. If the record is still what
that fingerprint was made of, nobody has changed it here, and what InvokeAI changed meanwhile may be taken
over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from modelkeep.model.v1.model_pb2 import Model

from .mapping import Mapped

#: The label that has the fingerprint of what was imported.
LABEL = "modelkeep.dev/invokeai"
PICTURE = "cover_image"
#: What differs where the files that are there are not those that the record lists.
FILES = "files"
#: What InvokeAI says of every model, and of some by their type. All else here is not touched by an import.
_FIELDS = (
    *(
        "name",
        "type",
        "format",
        "base",
        "path",
        "root_id",
        "description",
        "source",
        "source_type",
        "source_url",
    ),
    *("trigger_phrases", "default_settings", "related_keys", "extra_fields"),
)
_SETTINGS = (
    *("vae", "variant", "prediction_type", "upcast_attention", "checkpoint_config", "family_variant"),
    *("submodels", "image_encoder", "raw_json"),
)


def fingerprint(model: Model, picture: str) -> str:
    """Of what InvokeAI says of a model, as a record has it; ``picture`` is the SHA-256 of its cover."""
    said = _said(model).SerializeToString(deterministic=True)
    return hashlib.sha256(b"\0".join((said, picture.encode()))).hexdigest()[:32]


def differing(before: Model, wanted: Mapped) -> list[str]:
    """The fields in which a record differs from what InvokeAI says."""
    one, other = _said(before), _said(wanted.model)
    names = [name for name in _FIELDS if getattr(one, name) != getattr(other, name)]
    arm, other_arm = one.WhichOneof("config"), other.WhichOneof("config")
    if arm == other_arm and arm is not None:
        parts = getattr(one, arm), getattr(other, arm)
        names += [
            f"{arm}.{name}" for name in _of(parts[0]) if getattr(parts[0], name) != getattr(parts[1], name)
        ]
    names += [PICTURE] if picture_of(before) != digest(wanted.picture) else []
    # those of a model that was missing when it was imported are not listed yet
    names += [FILES] if wanted.files and before.size_bytes != wanted.model.size_bytes else []
    return names


def is_as_imported(model: Model) -> bool:
    """Whether nobody has changed a record here since it was imported."""
    return model.labels.get(LABEL) == fingerprint(model, picture_of(model))


def labelled(wanted: Mapped) -> Model:
    """A new record, with the fingerprint of what InvokeAI says."""
    model = Model()
    model.CopyFrom(wanted.model)
    model.labels[LABEL] = fingerprint(model, digest(wanted.picture))
    return model


def merged(before: Model, wanted: Mapped, changed: Sequence[str]) -> tuple[Model, list[str]]:
    """A record with what InvokeAI says in place of what it says of that; all else stays.

    Args:
        before: The record.
        wanted: What InvokeAI says.
        changed: The fields that differ; see :func:`differing`.

    Returns:
        The record, and the paths of its fields that change.
    """
    model = Model()
    model.CopyFrom(before)
    for name in _FIELDS:
        model.ClearField(name)
    arm = wanted.model.WhichOneof("config") or ""
    if arm == before.WhichOneof("config"):
        for name in _of(getattr(model, arm)):
            getattr(model, arm).ClearField(name)
    model.MergeFrom(_said(wanted.model))
    model.tags.extend(tag for tag in wanted.model.tags if tag not in before.tags)
    model.labels[LABEL] = fingerprint(model, digest(wanted.picture))
    paths = {name.partition(".")[0] for name in changed if name not in (PICTURE, FILES)}
    if "type" in paths:
        paths |= {"format", "base", arm}
    return model, sorted(paths | {"tags", "labels"})


def picture_of(model: Model) -> str:
    """SHA-256 of the cover picture of a record; empty where it has none."""
    return model.cover_image.sha256 if model.HasField("cover_image") else ""


def digest(picture: bytes) -> str:
    """SHA-256 of a picture; empty where there is none."""
    return hashlib.sha256(picture).hexdigest() if picture else ""


def _said(model: Model) -> Model:
    """Of a record what InvokeAI says of a model."""
    said = Model()
    _copy(model, said, _FIELDS)
    arm = model.WhichOneof("config")
    if arm is not None:
        getattr(said, arm).SetInParent()
        _copy(getattr(model, arm), getattr(said, arm), _SETTINGS)
    return said


def _copy(source: Any, target: Any, names: Collection[str]) -> None:
    """Copies those fields that are set."""
    for field, value in source.ListFields():
        if field.name not in names:
            continue
        if field.is_repeated:
            getattr(target, field.name).MergeFrom(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _of(arm: Any) -> list[str]:
    """The settings of a type that InvokeAI knows too."""
    return [field.name for field in arm.DESCRIPTOR.fields if field.name in _SETTINGS]
