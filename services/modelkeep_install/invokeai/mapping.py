"""What a record of InvokeAI is here. Pure.

A field that has a place here goes there; every other one becomes an extra field, under the name and with
the value that it has there, so that nothing is lost. So does a value that its place cannot take. Left out
are fields without a value (null), and what opens something in an address.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from modelkeep.configs.wire import assemble, kind_violations
from modelkeep.exceptions import FieldViolation, InvalidModelConfigException, ModelkeepError
from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.taxonomy import (
    BaseModelType,
    ModelFormat,
    ModelSourceType,
    ModelType,
    ModelVariantType,
    SchedulerPredictionType,
    SubModelType,
)
from modelkeep_common.calls.validation import collector
from modelkeep_common.wire import to_timestamp, total

from ..domain.ports import RecordFile
from .looking import Place
from .root import Root
from .source import Source, is_own_key, key_of, text_in

#: Bytes of a value of an extra field.
_MAX_EXTRA = 256 << 10
_MAX_RAW = 262_144
#: Fields that are named when a record is too large.
_MOST_TOLD = 20
#: Bytes of a record, with room for what the service adds.
_MAX_RECORD = (1 << 20) - (16 << 10)
_BASE = re.compile("[a-z0-9]+(-[a-z0-9]+)*")
_IMOHASH = re.compile("[0-9a-f]{32}")
_BLAKE3 = re.compile("blake3:([0-9a-f]{64})")
_SETTINGS: Any = model_pb2.Model.DESCRIPTOR.fields_by_name["default_settings"].message_type


@dataclass(frozen=True, slots=True)
class Mapped:
    """A record as it is to be here.

    Attributes:
        source, place: What it was made of.
        model: The record, without the marks that the service makes.
        files: Its files.
        picture: Its cover picture; empty where there is none.
        is_unknown: This version does not know such a model.
        trouble: Why its picture, or a field, cannot be taken.
    """

    source: Source
    place: Place
    model: model_pb2.Model
    files: tuple[RecordFile, ...]
    picture: bytes = b""
    is_unknown: bool = False
    trouble: ModelkeepError | None = None


def mapped(
    source: Source, place: Place, root: Root, picture: bytes = b"", trouble: ModelkeepError | None = None
) -> Mapped:
    """The record here of a record there.

    Args:
        source: The record there.
        place: Where its files are.
        root: The installation.
        picture: Its cover picture.
        trouble: Why it has none, if there is one.
    """
    left = {name: value for name, value in source.config.items() if value is not None}
    values: dict[str, Any] = {
        "key": key_of(source.key, place.shown) if source.is_legacy else key_of(source.key),
        "path": place.path,
        "root_id": place.root_id,
        "size_bytes": total(file.size_bytes for file in place.files),
        "name": _name(source, place),
        "related_keys": sorted({key_of(key) for key in source.related}),
    }
    left.pop("path", None)
    if not is_own_key(source.key):
        left["key"] = source.shown_key
    if left.get("name") == values["name"]:
        del left["name"]
    _common(left, values, source.tags)
    is_known = _kind(left, values)
    arm = _arm(left, values, root)
    model, _ = assemble({**values, **arm})
    for name in _misfits(model):
        left[_ORIGINS.get(name, name)] = source.config.get(_ORIGINS.get(name, name), values.get(name))
    if not model.name:
        model.name = (PurePath(place.shown).stem or source.key)[:512]
    if not is_known:
        _keep_raw(model, left)
    _keep(model, left)
    if dropped := _drop_what_is_too_large(model):
        trouble = _too_large(dropped)
    for name, seconds in (("create_time", source.create_time), ("update_time", source.update_time)):
        if seconds is not None:
            getattr(model, name).CopyFrom(to_timestamp(seconds))
    return Mapped(source, place, model, _files(place, left), picture, not is_known, trouble)


def _name(source: Source, place: Place) -> str:
    name = text_in(source.config, "name")
    return name if name.strip() else PurePath(place.shown).stem or source.key


#: What 5.0 to 6.8 call the variants of FLUX.1, where other models have their configuration.
_FLUX = {"flux-dev": "dev", "flux-dev-fill": "dev_fill", "flux-schnell": "schnell"}
#: Names here and there, where they differ.
_ORIGINS = {
    "checkpoint_config": "config_path",
    "image_encoder": "image_encoder_model_id",
    "family_variant": "variant",
}


def _common(left: dict[str, Any], values: dict[str, Any], tags: Iterable[str]) -> None:
    """Takes what every record may have."""
    if text_in(left, "description"):
        values["description"] = left.pop("description")
    if text_in(left, "source"):
        values["source"] = left.pop("source")
    if text_in(left, "source_type") in set(ModelSourceType):
        values["source_type"] = left.pop("source_type")
    if text_in(left, "source_url").startswith(("https://", "http://")):
        values["source_url"] = left.pop("source_url")
    if _are_texts(left.get("trigger_phrases")):
        values["trigger_phrases"] = sorted(set(left.pop("trigger_phrases")))
    said = left.pop("tags") if _are_texts(left.get("tags")) else []
    values["tags"] = list(dict.fromkeys((*said, *filter(None, tags))))
    for name in ("original_hash", "current_hash"):
        if _IMOHASH.fullmatch(text_in(left, name)):
            values[name] = left.pop(name)
    settings: dict[str, Any] = {}
    if isinstance(left.get("default_settings"), dict):
        rest: dict[str, Any] = {}
        for name, value in left.pop("default_settings").items():
            (settings if _fits(name, value) else rest)[name] = value
        if rest := {name: value for name, value in rest.items() if value is not None}:
            left["default_settings"] = rest
    if isinstance(left.get("cpu_only"), bool) and "cpu_only" not in settings:
        settings["cpu_only"] = left.pop("cpu_only")
    if settings:
        values["default_settings"] = settings


def _is_yaml(path: str) -> bool:
    return PurePath(path).suffix.lower() in (".yaml", ".yml")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _fits(name: str, value: Any) -> bool:
    """Whether there is a default setting of this name that can have this value."""
    field = _SETTINGS.fields_by_name.get(name)
    if field is None or value is None:
        return False
    if field.cpp_type == field.CPPTYPE_STRING:
        return isinstance(value, str)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if field.cpp_type == field.CPPTYPE_INT32:
        return isinstance(value, int) and 1 <= value < 1 << 31
    return isinstance(value, int | float) and abs(value) < 1e300


def _kind(left: dict[str, Any], values: dict[str, Any]) -> bool:
    """Takes type, format and base; whether this version knows such a model."""
    type_, format_, base = (text_in(left, name) for name in ("type", "format", "base"))
    if type_ == "main" and format_ in ("onnx", "olive"):
        type_ = "onnx"  # as the original had it: by the format alone
    can_be_stored = len(base) <= 64 and _BASE.fullmatch(base) is not None
    values["base"] = left.pop("base") if can_be_stored else BaseModelType.Unknown
    values |= {"type": ModelType.Unknown, "format": ModelFormat.Unknown}
    if not _is_kind(type_, format_, str(values["base"])):
        return False
    values |= {"type": type_, "format": format_}
    if type_ == left["type"]:
        del left["type"]
    del left["format"]
    return base in set(BaseModelType) and type_ != ModelType.Unknown


@lru_cache(maxsize=1024)
def _is_kind(type_: str, format_: str, base: str) -> bool:
    """Whether such models exist here."""
    if type_ not in set(ModelType) or format_ not in set(ModelFormat):
        return False
    model, _ = assemble({"type": type_, "format": format_, "base": base})
    return not kind_violations(model)


def _arm(left: dict[str, Any], values: Mapping[str, Any], root: Root) -> dict[str, Any]:
    """Takes the settings that such a model has here."""
    fields = getattr(model_pb2.Model(), str(values["type"])).DESCRIPTOR.fields_by_name
    arm: dict[str, Any] = {}
    # since 4.0 it begins in the folder of configurations, before in the root
    for name, folder in (("config_path", root.configs_dir), ("config", root.path)):
        file = text_in(left, name)
        if "checkpoint_config" in fields and "checkpoint_config" not in arm and _is_yaml(file):
            arm["checkpoint_config"] = os.path.normpath(folder / left.pop(name))
    if "image_encoder" in fields and text_in(left, "image_encoder_model_id"):
        arm["image_encoder"] = left.pop("image_encoder_model_id")
    if "vae" in fields and text_in(left, "vae"):
        arm["vae"] = os.path.normpath(root.models_dir / left.pop("vae"))
    variant = text_in(left, "variant")
    if "variant" in fields and variant in set(ModelVariantType):
        arm["variant"] = left.pop("variant")
    elif "family_variant" in fields and variant:
        arm["family_variant"] = left.pop("variant")
    if "family_variant" in fields and text_in(left, "config_path") in _FLUX:
        arm.setdefault("family_variant", _FLUX[left["config_path"]])
    if "prediction_type" in fields and text_in(left, "prediction_type") in set(SchedulerPredictionType):
        arm["prediction_type"] = left.pop("prediction_type")
    if "upcast_attention" in fields and isinstance(left.get("upcast_attention"), bool):
        arm["upcast_attention"] = left.pop("upcast_attention")
    if "submodels" in fields and isinstance(left.get("submodels"), dict):
        # stays an extra field too: what it says of each component has no place here
        arm["submodels"] = [
            {"type": name, "path_or_prefix": text_in(part, "path_or_prefix")}
            for name, part in left["submodels"].items()
            if name in set(SubModelType) and isinstance(part, dict)
        ]
    return arm


def _misfits(model: model_pb2.Model) -> set[str]:
    """Empties the fields whose values cannot be stored, and names them."""
    found: set[str] = set()
    arm_name = model.WhichOneof("config") or ""
    for violation in collector()(model):
        names = [element.field_name for element in violation.proto.field.elements]
        if names[:1] == [arm_name] and len(names) > 1:
            getattr(model, arm_name).ClearField(names[1])
            found.add(names[1])
        elif names:
            model.ClearField(names[0])
            found.add(names[0])
    for problem in kind_violations(model):
        arm, _, name = problem.field.partition(".")
        if name and arm == arm_name:
            getattr(model, arm_name).ClearField(name)
            found.add(name)
    return found


def _keep_raw(model: model_pb2.Model, left: Mapping[str, Any]) -> None:
    """Puts what is left into the settings of a model of unknown kind, where readers look for it."""
    if model.type != taxonomy_pb2.MODEL_TYPE_UNKNOWN:
        return
    raw = _text({name: value for name, value in left.items() if name != "source_api_response"})
    if len(raw) <= _MAX_RAW:
        model.unknown.raw_json = raw


def _keep(model: model_pb2.Model, left: Mapping[str, Any]) -> None:
    """Puts what is left into the extra fields."""
    for name, value in left.items():
        text = _text(value)
        name = name[:250] or "(no name)"
        if len(text.encode()) <= _MAX_EXTRA:
            model.extra_fields[name] = text
            continue
        parts = list(_cut(text))
        for number, part in enumerate(parts, 1):
            model.extra_fields[f"{name}[{number}/{len(parts)}]"] = json.dumps(part, ensure_ascii=False)


def _drop_what_is_too_large(model: model_pb2.Model) -> list[str]:
    """Takes the largest extra fields out of a record that is too large to be stored; names them."""
    excess = model.ByteSize() - _MAX_RECORD
    if excess <= 0:
        return []
    whole: dict[str, list[str]] = {}
    for name in model.extra_fields:
        whole.setdefault(name.partition("[")[0], []).append(name)
    sizes = {
        name: sum(len(part.encode()) + len(model.extra_fields[part].encode()) for part in parts)
        for name, parts in whole.items()
    }
    dropped = []
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        for part in whole[name]:
            del model.extra_fields[part]
        dropped.append(name)
        excess -= sizes[name]
        if excess <= 0:
            break
    return dropped


def _too_large(names: Sequence[str]) -> InvalidModelConfigException:
    why = f"more than {_MAX_RECORD:,} bytes with all that it says"
    told = ", ".join(names[:_MOST_TOLD])
    if len(names) > _MOST_TOLD:
        told += f" and {len(names) - _MOST_TOLD:,} fields more"
    return InvalidModelConfigException(
        f"The record has {why}: it does without {told}.",
        violations=[FieldViolation(name, "makes the record too large") for name in names[:_MOST_TOLD]],
    )


def _cut(text: str) -> Iterable[str]:
    """A text in pieces that stay below the limit, however they are quoted."""
    step = _MAX_EXTRA // 8
    return (text[first : first + step] for first in range(0, len(text), step))


def _text(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
        text.encode()
    except (ValueError, TypeError):  # no number, or half a character: as a text that says so
        text = json.dumps(json.dumps(value, default=str))
    return text


def _files(place: Place, left: Mapping[str, Any]) -> tuple[RecordFile, ...]:
    """The files, and of a single one the digest that InvokeAI took, unless it is another file by now."""
    digest = _BLAKE3.fullmatch(text_in(left, "hash"))
    if not (place.is_file and digest):
        return place.files
    [file] = place.files
    if left.get("file_size", file.size_bytes) != file.size_bytes:
        return place.files
    return (RecordFile(file.path, file.size_bytes, file.modify_time, blake3=digest[1]),)
