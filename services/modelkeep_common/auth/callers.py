"""From a call to its Principal, by the listener and what the caller shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.exceptions import CredentialsMissingException

from ..settings import ServiceSettings
from ..startup import StartupError
from .principal import ADMIN, OPERATOR, OWNER, THE_OWNER, VIEWER, Authenticator, Metadata, Principal
from .tokens import read_tokens

#: Makes the Principal of a call from its peer and its headers.
Identify: TypeAlias = Callable[[str, Metadata], Principal]

#: A caller over TCP without a token, where looking is free.
ANONYMOUS = Principal("anonymous", frozenset({VIEWER}))
#: A caller over TCP where the operator wants no tokens.
ANYBODY = Principal("anybody", frozenset({ADMIN}))

#: How a caller says who he is.
HOW = (
    'send the header "authorization: Bearer TOKEN" (`modelkeep token` prints the owner\'s), '
    "or call through the UNIX socket that run/suite.json in the data folder names"
)


class SocketAuthenticator:
    """Whoever reaches the UNIX socket is the owner: its folder lets nobody else in.

    gRPC writes the peer by the socket that the connection was accepted on, so no caller over TCP can seem
    to come from here.
    """

    def authenticate(self, peer: str, metadata: Metadata) -> Principal | None:
        """See :class:`Authenticator`."""
        return THE_OWNER if peer.startswith("unix:") else None


class Callers:
    """Asks the authenticators in order.

    Args:
        authenticators: The first that knows the caller decides.
        otherwise: Who a caller is whom none of them knows; None refuses the call.
    """

    def __init__(self, authenticators: Sequence[Authenticator], otherwise: Principal | None = None) -> None:
        self._authenticators = tuple(authenticator.authenticate for authenticator in authenticators)
        self._otherwise = otherwise

    def identify(self, peer: str, metadata: Metadata) -> Principal:
        """The caller.

        Raises:
            CredentialsMissingException: The call shows nothing.
            CredentialsInvalidException: It shows something wrong.
        """
        for authenticate in self._authenticators:
            principal = authenticate(peer, metadata)
            if principal is not None:
                return principal
        if self._otherwise is None:
            raise CredentialsMissingException(f"This service wants to know who calls: {HOW}.")
        return self._otherwise


def callers_of(settings: ServiceSettings) -> Callers:
    """Who may be who on the listeners of these settings; blocks to read the token file.

    Raises:
        StartupError: 78 for a token file that is no good, or any import root where not only the owner works.
    """
    authenticators: list[Authenticator] = []
    known: list[Principal] = []
    if settings.token_file is not None:
        tokens = read_tokens(settings.token_file)
        authenticators.append(tokens)
        known.extend(tokens.principals)
    elif settings.insecure:
        known.append(ANYBODY)
    _check_roots(settings, known)
    if settings.unix_socket is not None:
        authenticators.append(SocketAuthenticator())
    if settings.token_file is None and settings.insecure:
        return Callers(authenticators, ANYBODY)
    return Callers(authenticators, ANONYMOUS if settings.anonymous == "viewer" else None)


def _check_roots(settings: ServiceSettings, known: Iterable[Principal]) -> None:
    """Whoever works beside the owner could have links followed to what only the owner may read."""
    if not getattr(settings, "allow_any_import_root", False):
        return
    others = [one.name for one in known if one.has(OPERATOR, ADMIN) and not one.has(OWNER)]
    if others:
        raise StartupError(
            EXIT_CONFIG,
            f"allow_any_import_root lets the owner have every file of this host read, and {others[0]} may "
            "install models too: name the folders in import_roots in its place",
        )
