"""``FIELD=VALUE``: what a person says about a model's record."""

from __future__ import annotations

import json
from typing import Any, Final

import typer

from modelkeep.cli._terminal import visible
from modelkeep.cli._words import did_you_mean

#: Names of fields that are shorter than those of the configs.
_SHORT: Final = ("type", "format", "base", "config_path")


def assignments(given: list[str] | None) -> dict[str, Any]:
    """``name=value`` texts as a dict; what is no text in a config is read as JSON, an empty value clears."""
    from modelkeep.configs import field_types

    types = field_types()
    values: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not FIELD=VALUE, such as name=my-model")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        outer, inner = types.get(name, (str, str))
        # A name may be 42, or true.
        meant = parsed if isinstance(parsed, _in_json(outer)) else value
        alone = outer is list and issubclass(inner, str) and meant == value
        values[name] = None if value == "" else [value] if alone else meant
    return values


def _in_json(outer: type) -> type | tuple[type, ...]:
    """What a value of a type is in JSON."""
    if outer is float:
        return int, float
    return dict if hasattr(outer, "model_fields") else outer


def changes(given: list[str] | None) -> dict[str, Any]:
    """The same of fields that there are; the service says what is wrong with one that is near none.

    Raises:
        typer.BadParameter: A field is written nearly as one that there is.
    """
    from modelkeep.configs import field_types

    known = {*field_types(), *_SHORT}
    values = assignments(given)
    for name in values:
        if name not in known and (near := did_you_mean(name, known)):
            raise typer.BadParameter(f"A model has no field {visible(name)!r}.{near}")
    return values


def labels(given: list[str] | None) -> dict[str, str]:
    """``key=value`` texts as labels; a key alone has the empty value."""
    return {key: value for key, _, value in (text.partition("=") for text in given or ())}


def overrides(given: list[str] | None) -> dict[str, Any]:
    """The same over what a probe finds: an empty value leaves the record's empty, whatever is found."""
    values: dict[str, Any] = {}
    for name, value in changes(given).items():
        whole, _, part = name.partition(".")
        if part:
            values[whole] = {**(values.get(whole) or {}), part: value}
        else:
            values[name] = "" if value is None else value
    return values
