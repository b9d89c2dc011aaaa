"""Every call's id: the caller's own, if it is fit for logs and headers, or one made here."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Iterable

HEADER = "x-request-id"

_FIT = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
_PREFIX = secrets.token_hex(5)
_next = itertools.count(1).__next__


def request_id_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The id in a call's metadata, or a new one, unique over processes."""
    for key, value in metadata or ():
        if key == HEADER and isinstance(value, str) and _FIT(value):
            return value
    return f"{_PREFIX}-{_next():x}"
