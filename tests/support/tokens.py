"""Token files for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path


def token_of(name: str) -> str:
    """The token of a caller; not a secret, since it follows from the name."""
    return f"token-of-{name}-{'0' * 16}"


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call of this caller; none for ''."""
    return (("authorization", f"Bearer {token_of(name)}"),) if name else ()


def write_tokens(path: Path, roles: Mapping[str, Iterable[str]]) -> Path:
    """A token file with one token for each name."""
    entries = [{"name": name, "roles": sorted(has), "token": token_of(name)} for name, has in roles.items()]
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    path.write_text(json.dumps({"tokens": entries}))
    return path
