"""What a record of InvokeAI comes to here, and back: nothing may be lost on the way."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from modelkeep.configs.fields import values_of
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.taxonomy import ModelType

#: A record of every class of InvokeAI's configurations, every field filled, as InvokeAI itself writes it.
RECORDS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "invokeai" / "records.json").read_text()
)


def said(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says: without what it leaves open, and without an order that means nothing."""
    found = {name: value for name, value in record.items() if value is not None}
    if "trigger_phrases" in found:
        found["trigger_phrases"] = sorted(found["trigger_phrases"])
    if "default_settings" in found:
        settings = found["default_settings"].items()
        found["default_settings"] = {name: value for name, value in settings if value is not None}
    return found


def returned(model: Model, root: Path) -> dict[str, Any]:
    """A record as InvokeAI would have it, from what is here."""
    values = values_of(model)
    arm_name = model.WhichOneof("config") or ""
    arm = values_of(getattr(model, arm_name))
    settings = values_of(model.default_settings)
    extra = {name: json.loads(text) for name, text in model.extra_fields.items()}
    found: dict[str, Any] = {
        "key": model.key,
        "path": _beneath(model.path, root / "models"),
        **{name: str(values[name]) for name in ("name", "type", "format", "base")},
        **{name: str(values[name]) for name in _TEXTS if name in values},
        **{name: values[name] for name in ("trigger_phrases", "tags") if values.get(name)},
    }
    if "family_variant" in arm:
        found["variant"] = arm["family_variant"]
    for name in ("variant", "prediction_type"):
        if name in arm:
            found.setdefault(name, str(arm[name]))
    if "upcast_attention" in arm:
        found["upcast_attention"] = arm["upcast_attention"]
    if "checkpoint_config" in arm:
        found["config_path"] = _beneath(arm["checkpoint_config"], root / "configs")
    if "image_encoder" in arm:
        found["image_encoder_model_id"] = arm["image_encoder"]
    if values["type"] not in _WITH_SETTINGS and "cpu_only" in settings:
        found["cpu_only"] = settings.pop("cpu_only")
    rest = extra.get("default_settings", {})
    if settings and isinstance(rest, dict):
        found["default_settings"] = {**settings, **rest}
        extra.pop("default_settings", None)
    return {**found, **extra}


_TEXTS = ("description", "source", "source_type", "source_url")
#: Types whose settings InvokeAI has in `default_settings`; of others it has only `cpu_only`, by itself.
_WITH_SETTINGS = frozenset(
    {
        *(ModelType.Main, ModelType.LoRA, ModelType.ControlLoRa, ModelType.ControlNet, ModelType.T2IAdapter),
        ModelType.ExternalImageGenerator,
    }
)


def _beneath(path: str, folder: Path) -> str:
    return str(PurePath(path).relative_to(folder)) if PurePath(path).is_relative_to(folder) else path
