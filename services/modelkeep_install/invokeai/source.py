"""One of InvokeAI's records, as it was read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelkeep.exceptions import ModelkeepError

from .cleaning import cleaned_text

_KEY = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Source:
    """A record.

    Attributes:
        key: Its key there; of a models.yaml, the name of its entry.
        config: Its fields, without the key, as they may be kept; see :mod:`.cleaning`.
        create_time, update_time: Seconds since 1970; None where it is not told.
        related: Keys of its related models there.
        tags: What it is tagged with in a table of its own.
        is_legacy: It stands in a models.yaml.
        error: Why it cannot be read; ``config`` is then empty.
    """

    key: str
    config: Mapping[str, Any] = field(default_factory=dict)
    create_time: float | None = None
    update_time: float | None = None
    related: Sequence[str] = ()
    tags: Sequence[str] = ()
    is_legacy: bool = False
    error: ModelkeepError | None = None

    @property
    def shown_key(self) -> str:
        """Its key there, as it may be kept and told."""
        return cleaned_text(self.key)


def key_of(text: str, *beside: str) -> str:
    """The key here of a record with some key there: the same at every import.

    Args:
        text: The key there.
        beside: What else tells it apart, where the key alone does not.
    """
    plain = text.replace("-", "").lower()
    if _KEY.fullmatch(plain):
        return plain
    return hashlib.sha256("\0".join(("invokeai", text, *beside)).encode(errors="surrogatepass")).hexdigest()[
        :32
    ]


def is_own_key(text: str) -> bool:
    """Whether a key there is the key here, as it is."""
    return _KEY.fullmatch(text) is not None


def text_in(config: Mapping[str, Any], name: str) -> str:
    """A text of a record; empty where there is none."""
    value = config.get(name)
    return value if isinstance(value, str) else ""
