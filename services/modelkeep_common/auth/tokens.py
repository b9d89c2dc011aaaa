"""Bearer tokens, from one file that says whose they are.

::

    {"tokens": [{"name": "ci", "roles": ["operator"], "token": "…"},
                {"name": "dashboard", "roles": ["viewer"], "sha256": "…"}]}

A token is at least 16 printable ASCII characters without spaces. In its place the file may have the SHA-256
of it in hexadecimal: whoever reads the file then learns no token.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.exceptions import CredentialsInvalidException
from modelkeep.private import NotPrivateError, check_private

from ..startup import StartupError
from .principal import ROLES, Metadata, Principal

HEADER = "authorization"

_TOKEN = re.compile(r"[!-~]{16,4096}").fullmatch
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}").fullmatch
_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch
_MAX_FILE_BYTES = 1 << 20


class TokenAuthenticator:
    """Knows callers by ``authorization: Bearer TOKEN``.

    Args:
        principals: SHA-256 digest of each token to whose it is.
    """

    def __init__(self, principals: Mapping[bytes, Principal]) -> None:
        self._principals = dict(principals)

    @property
    def principals(self) -> Iterable[Principal]:
        """All whose tokens it knows."""
        return self._principals.values()

    def authenticate(self, peer: str, metadata: Metadata) -> Principal | None:
        """See :class:`Authenticator`."""
        shown = [value for key, value in metadata if key == HEADER]
        if not shown:
            return None
        header = shown[0]
        if len(shown) > 1 or not isinstance(header, str) or header[:7].lower() != "bearer ":
            raise CredentialsInvalidException(
                'The header "authorization" must be there once, as "Bearer TOKEN".', metadata={}
            )
        # The time of a look-up tells of the digest, which leads nobody to a token.
        token = header[7:].strip().encode("utf-8", "replace")
        principal = self._principals.get(hashlib.sha256(token).digest())
        if principal is None:
            raise CredentialsInvalidException(
                "The token is not one that this service knows: `modelkeep up` makes new ones at each start, "
                "and `modelkeep token` prints the owner's."
            )
        return principal


def read_tokens(path: Path) -> TokenAuthenticator:
    """The authenticator of a token file.

    Raises:
        StartupError: 78 if others could read or change the file, or it is no token file.
    """
    entries = _read(path)
    principals: dict[bytes, Principal] = {}
    for place, entry in enumerate(entries):
        digest, principal = _entry(path, place, entry)
        if digest in principals:
            raise _bad(path, f"entry {place} has the token of {principals[digest].name}")
        principals[digest] = principal
    return TokenAuthenticator(principals)


def _read(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            check_private(path, os.fstat(file.fileno()))
            said = json.loads(file.read(_MAX_FILE_BYTES))
    except NotPrivateError as error:
        raise StartupError(EXIT_CONFIG, f"token_file {error}") from None
    except OSError as error:
        raise StartupError(EXIT_CONFIG, f"cannot read token_file {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _bad(path, "it is not JSON") from None
    entries = said.get("tokens") if isinstance(said, dict) else None
    if not isinstance(entries, list):
        raise _bad(path, 'it must be {"tokens": […]}')
    return entries


def _entry(path: Path, place: int, entry: Any) -> tuple[bytes, Principal]:
    if not isinstance(entry, dict):
        raise _bad(path, f"entry {place} must be an object")
    if unknown := sorted(entry.keys() - {"name", "roles", "token", "sha256"}):
        raise _bad(path, f"entry {place} has the unknown key {unknown[0]!r}")
    name, roles = entry.get("name"), entry.get("roles")
    if not isinstance(name, str) or not _NAME(name):
        raise _bad(path, f"the name of entry {place} must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '@', '-'")
    if not isinstance(roles, list) or not roles or not all(role in ROLES for role in _texts(roles)):
        raise _bad(path, f"the roles of {name} must be a list of some of: {', '.join(sorted(ROLES))}")
    return _digest(path, name, entry), Principal(name, frozenset(roles))


def _texts(values: list[Any]) -> Iterator[str]:
    return (value if isinstance(value, str) else "" for value in values)


def _digest(path: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    token, digest = entry.get("token"), entry.get("sha256")
    if (token is None) == (digest is None):
        raise _bad(path, f"{name} needs either a token or its sha256")
    if token is not None:
        if not isinstance(token, str) or not _TOKEN(token):
            raise _bad(path, f"the token of {name} must be 16 or more printable ASCII characters, no spaces")
        return hashlib.sha256(token.encode()).digest()
    if not isinstance(digest, str) or not _DIGEST(digest):
        raise _bad(path, f"the sha256 of {name} must be 64 lower-case hexadecimal digits")
    return bytes.fromhex(digest)


def _bad(path: Path, why: str) -> StartupError:
    return StartupError(EXIT_CONFIG, f"token_file {path} is no good: {why}")
