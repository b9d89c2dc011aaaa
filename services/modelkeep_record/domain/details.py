"""Rules for single fields of a record that its .proto cannot say: addresses of pages, JSON texts."""

from __future__ import annotations

import json
from collections.abc import Iterator

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.jsontext import parse_json
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.urls import page_violations, shown


def without_secrets(model: Model, known: Model | None = None) -> None:
    """Take the secrets out of a record's addresses.

    Args:
        model: The record; changed in place.
        known: The record before the change.

    Raises:
        FieldInvalidException: The address of its page is none. What would show that may be gone afterwards.
    """
    if known is None or model.source_url != known.source_url:
        wrong = page_violations(model.source_url, "model.source_url")
        if wrong:
            raise FieldInvalidException("", violations=wrong)
    for name in ("source", "preview_url", "source_url"):
        if address := getattr(model, name):
            setattr(model, name, shown(address))


def extra_violations(model: Model, known: Model | None) -> Iterator[FieldViolation]:
    """What is wrong with a record's extra fields; texts that stand in a known record are not read again."""
    for name, text in model.extra_fields.items():
        if known is not None and known.extra_fields.get(name) == text:
            continue
        try:
            parse_json(text)
        except ValueError as error:
            yield FieldViolation(f"model.extra_fields[{json.dumps(name)}]", f"is {error}")
