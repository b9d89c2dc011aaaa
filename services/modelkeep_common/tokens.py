"""The form of opaque tokens: a list of texts and numbers as JSON in URL-safe base64.

Clients keep tokens, and may alter them. So a token is read strictly: only the exact text that
:func:`encode` writes for the fields is one. Neither other spellings of the same fields, nor values
that a store cannot take (numbers beyond 64 bits, NaN, half a surrogate pair), get past this module.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence

from .wire import MAX_INT64, MIN_INT64

Field = str | int | float
#: Longer ones are none; the protos allow no longer ones either.
MAX_TOKEN_CHARS = 32_768


def encode(fields: Sequence[Field]) -> str:
    """The token that holds ``fields``."""
    text = json.dumps(list(fields), separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(token: str) -> list[Field] | None:
    """The fields in ``token``; None for whatever :func:`encode` did not write."""
    if len(token) > MAX_TOKEN_CHARS:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        fields = json.loads(raw)
        if not isinstance(fields, list) or not all(map(_is_field, fields)):
            return None
        return fields if encode(fields) == token else None
    except (binascii.Error, ValueError, RecursionError):
        return None


def is_of(fields: Sequence[Field], kinds: Sequence[type[Field]]) -> bool:
    """Whether there are as many fields as kinds, and each is of its kind; a whole number is no float."""
    return len(fields) == len(kinds) and all(
        type(field) is kind for field, kind in zip(fields, kinds, strict=True)
    )


def _is_field(value: object) -> bool:
    if type(value) is int:
        return MIN_INT64 <= value <= MAX_INT64
    return type(value) is str or (type(value) is float and math.isfinite(value))
