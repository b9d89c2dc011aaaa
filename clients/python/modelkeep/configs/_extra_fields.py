"""Fields of another program's record: JSON values in Python, JSON texts on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.jsontext import parse_json


def values_of_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The values by name, sorted; a text that is none, which no service stores, as it is."""
    return {name: _value(text) for name, text in sorted(texts.items())}


def put_values(texts: MutableMapping[str, str], values: Mapping[str, Any]) -> None:
    """Make the texts those of the values; the text of a value that is as it was stays, to the byte.

    Raises:
        FieldInvalidException: A value has no form as JSON.
    """
    violations = []
    for name in texts.keys() - values.keys():
        del texts[name]
    for name, value in values.items():
        try:
            text = _text(value)
            if name not in texts or _text(_value(texts[name])) != text:
                texts[name] = text
        except (TypeError, ValueError, RecursionError):
            violations.append(
                FieldViolation(f"extra_fields[{json.dumps(name)}]", "must be a value that JSON can hold")
            )
    if violations:
        raise FieldInvalidException("", violations=violations)


def _value(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    # Not compared as Python does, for which 1, 1.0 and True are the same.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
