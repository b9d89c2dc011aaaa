"""What callers ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from modelkeep_common.auth import NOBODY, Principal

from .jobs import Overrides, Reuse, State
from .plans import Remote


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What a caller asks to install. ``url``, ``remote`` and ``access_token`` may hold secrets."""

    local_path: str = ""
    url: str = ""
    remote: Remote | None = None
    inplace: bool = True
    move: bool = False
    overrides: Overrides = field(default_factory=dict)
    access_token: str = ""
    expected_sha256: str = ""
    priority: int | None = None
    reuse: Reuse = Reuse.SAME_SOURCE
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what makes the call safe to repeat."""

    request_id: str = ""
    fingerprint: bytes = b""
    principal: Principal = NOBODY
    method: str = ""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: whose source contains a text, in one of the states, with all of the labels."""

    source_contains: str = ""
    states: Collection[State] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class FilePolicy(StrEnum):
    """What happens to the files."""

    KEEP = "keep"
    OWNED = "owned"
    ANY_ALLOWED_ROOT = "any_allowed_root"
