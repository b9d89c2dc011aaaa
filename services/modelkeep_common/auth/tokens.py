"""Bearer tokens, from one file that says whose they are.

::

    {"tokens": [{"name": "ci", "roles": ["operator"], "token": "…"},
                {"name": "dashboard", "roles": ["viewer"], "sha256": "…"}]}

A token is at least 16 printable ASCII characters without spaces. In its place the file may have the SHA-256
of it in hexadecimal: whoever reads the file then learns no token.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from modelkeep.exceptions import CredentialsInvalidException

from ._entries import EntryFile
from .principal import Metadata, Principal, Transport

HEADER = "authorization"

_TOKEN = re.compile(r"[!-~]{16,4096}").fullmatch
_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch


class Tokens(Protocol):
    """Tokens of one kind."""

    def principal_of(self, token: str) -> Principal | None:
        """Whose the token is; None if it is not of this kind.

        Raises:
            CredentialsInvalidException: It is, and no good.
        """
        ...


class BearerAuthenticator:
    """Knows callers by ``authorization: Bearer TOKEN``.

    Args:
        *kinds: Kinds of tokens; the first that knows one decides.
    """

    def __init__(self, *kinds: Tokens) -> None:
        self._kinds = tuple(kind.principal_of for kind in kinds)

    def authenticate(self, peer: str, metadata: Metadata, transport: Transport) -> Principal | None:
        """See :class:`Authenticator`."""
        shown = [value for key, value in metadata if key == HEADER]
        if not shown:
            return None
        header = shown[0]
        if len(shown) > 1 or not isinstance(header, str) or header[:7].lower() != "bearer ":
            raise CredentialsInvalidException(
                'The header "authorization" must be there once, as "Bearer TOKEN".',
                remedy="Send one token, once.",
            )
        token = header[7:].strip()
        for principal_of in self._kinds:
            principal = principal_of(token)
            if principal is not None:
                return principal
        raise CredentialsInvalidException(
            "The token is not one that this service knows: `modelkeep up` makes new ones at each start, "
            "and `modelkeep token` prints the owner's."
        )


class StaticTokens:
    """The tokens of a token file.

    Args:
        principals: SHA-256 digest of each token to whose it is.
    """

    def __init__(self, principals: Mapping[bytes, Principal]) -> None:
        self._principals = dict(principals)

    @property
    def principals(self) -> Iterable[Principal]:
        """All whose tokens it knows."""
        return self._principals.values()

    def principal_of(self, token: str) -> Principal | None:
        """See :class:`Tokens`."""
        # The time of a look-up tells of the digest, which leads nobody to a token.
        return self._principals.get(hashlib.sha256(token.encode("utf-8", "replace")).digest())


class ListedTokens:
    """The tokens of a token file that may be replaced.

    Args:
        listed: Gives what it says.
    """

    def __init__(self, listed: Callable[[], StaticTokens]) -> None:
        self._listed = listed

    def principal_of(self, token: str) -> Principal | None:
        """See :class:`Tokens`."""
        return self._listed().principal_of(token)


def read_tokens(path: Path) -> StaticTokens:
    """The tokens of a token file. Blocks.

    Raises:
        UnusableError: Others could read or change the file, or it is no token file.
    """
    file = EntryFile("token_file", path)
    principals: dict[bytes, Principal] = {}
    for place, said in enumerate(file.entries("tokens", secret=True)):
        entry = file.keys_of(place, said, {"name", "roles", "token", "sha256"})
        name = file.name_of(place, entry)
        principal = Principal(name, file.roles_of(name, entry))
        digest = _digest(file, name, entry)
        if digest in principals:
            raise file.bad(f"entry {place} has the token of {principals[digest].name}")
        principals[digest] = principal
    return StaticTokens(principals)


def _digest(file: EntryFile, name: str, entry: Mapping[str, Any]) -> bytes:
    token, digest = entry.get("token"), entry.get("sha256")
    if (token is None) == (digest is None):
        raise file.bad(f"{name} needs either a token or its sha256")
    if token is not None:
        if not isinstance(token, str) or not _TOKEN(token):
            raise file.bad(f"the token of {name} must be 16 or more printable ASCII characters, no spaces")
        return hashlib.sha256(token.encode()).digest()
    if not isinstance(digest, str) or not _DIGEST(digest):
        raise file.bad(f"the sha256 of {name} must be 64 lower-case hexadecimal digits")
    return bytes.fromhex(digest)
