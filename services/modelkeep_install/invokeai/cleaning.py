"""Values of somebody else's record as they may be kept: without secrets, and without halves of characters.

A value that opens something is hidden by the name of its field (``access_token``), and in every address, be
it a value of its own, a part of a text, or in JSON that a text holds. Prose stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelkeep.exceptions import FieldViolation, InvalidModelConfigException
from modelkeep_common.urls import HIDDEN, is_address, is_credential, shown, shown_addresses


def cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that may be kept. Its path stays what it is, so that the model is found there.

    Raises:
        InvalidModelConfigException: There are values inside values, too deep to be looked through.
    """
    try:
        plain: dict[str, Any] = _plain(config)
    except RecursionError:
        raise InvalidModelConfigException(
            "The record of InvokeAI has values inside values more deeply than can be kept.",
            violations=[FieldViolation("config", "is nested too deeply")],
        ) from None
    path = config.get("path")
    if isinstance(path, str) and not is_address(path):
        plain["path"] = _whole(path)
    return plain


def cleaned_text(text: str) -> str:
    """A text that may be kept and told."""
    text = _whole(text)
    return shown(text) if is_address(text) else shown_addresses(text)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _plain_json(value) if value[:1] in ("{", "[") else cleaned_text(value)
    if isinstance(value, Mapping):
        return {
            cleaned_text(str(name)): HIDDEN if _is_secret(str(name), item) else _plain(item)
            for name, item in value.items()
        }
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_secret(name: str, value: Any) -> bool:
    return (
        isinstance(value, str | int | list)
        and not isinstance(value, bool)
        and bool(value)
        and is_credential(name)
    )


def _plain_json(text: str) -> str:
    try:
        value = json.loads(text)
        plain = _plain(value)
    except (ValueError, RecursionError):
        return cleaned_text(text)
    return _whole(text) if plain == value else json.dumps(plain)


def _whole(text: str) -> str:
    """A text without halves of characters, which nothing can store."""
    return text if text.isascii() else text.encode(errors="replace").decode()
