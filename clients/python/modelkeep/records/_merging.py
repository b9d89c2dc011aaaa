"""A sparse dict of changes on a record: the whole config that it makes, and which fields it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from modelkeep.configs import AnyModelConfig, ModelConfigFactory, config_class
from modelkeep.configs.wire import wire_path
from modelkeep.exceptions import FieldInvalidException, FieldViolation, InvalidModelConfigException

#: What the service sets by itself.
OUTPUT_ONLY: Final = ("etag", "create_time", "update_time", "missing_time", "revision", "cover_image")


def merge(present: AnyModelConfig, key: str, changes: Mapping[str, Any]) -> tuple[AnyModelConfig, list[str]]:
    """A config with some fields changed, and the mask that says which."""
    if changes.get("key", key) != key:
        raise FieldInvalidException(
            "The key of a model cannot be changed.", violations=[FieldViolation("key", "cannot be changed")]
        )
    new = ModelConfigFactory.make_config(_merged(present, changes), key=key)
    if type(new) is not type(present):
        return new, ["*"]  # another kind: its settings are another arm altogether
    names = [_canonical(name) for name in changes if name != "key"]
    return new, [wire_path(name, new.model_type) for name in names]


def _merged(present: AnyModelConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in present.model_dump().items() if name not in OUTPUT_ONLY}
    for name, value in changes.items():
        name = _canonical(name)
        whole, _, part = name.partition(".")
        if part:  # one value of several, such as default_settings.steps
            values[whole] = {**(values.get(whole) or {}), part: value}
            continue
        field = type(present).model_fields.get(name)
        if value is None and field is not None:
            if field.is_required():
                raise InvalidModelConfigException(
                    f"{name} cannot be cleared.", violations=[FieldViolation(name, "cannot be cleared")]
                )
            value = field.get_default(call_default_factory=True)
        values[name] = value
    kind = {name: values[name] for name in ("model_type", "model_format", "base_model")}
    before = {name: getattr(present, name) for name in kind}
    if kind != before:
        # Settings of the old kind that the new one does not have fall away; those that the caller names stay,
        # so that a wrong one is an error.
        cls = config_class(kind["model_type"], kind["model_format"], kind["base_model"])
        if cls is not None:
            named = {_canonical(name).partition(".")[0] for name in changes}
            values = {n: v for n, v in values.items() if n in cls.model_fields or n in named}
    return values


def _canonical(name: str) -> str:
    """Today's short names of three fields are the original's long ones."""
    return {"type": "model_type", "format": "model_format", "base": "base_model"}.get(name, name)
