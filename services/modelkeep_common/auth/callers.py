"""From a call to its Principal, by the listener and what the caller shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.exceptions import CredentialsMissingException
from modelkeep.renewed import Renewed, UnusableError

from ..settings import ServiceSettings
from ..startup import StartupError
from .certificates import Caller, CertificateAuthenticator, LivingCertificates, read_callers
from .principal import (
    ADMIN,
    OPERATOR,
    OWNER,
    THE_OWNER,
    VIEWER,
    Authenticator,
    Metadata,
    Principal,
    Transport,
)
from .tokens import BearerAuthenticator, ListedTokens, StaticTokens, Tokens, read_tokens

if TYPE_CHECKING:
    from .jwts import Denied

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Makes the Principal of a call from its peer, its headers and its connection.
Identify: TypeAlias = Callable[[str, Metadata, Transport], Principal]

#: A caller over TCP without a token, where looking is free.
ANONYMOUS = Principal("anonymous", frozenset({VIEWER}))
#: A caller over TCP where the operator wants no tokens.
ANYBODY = Principal("anybody", frozenset({ADMIN}))

#: How a caller says who he is.
HOW = (
    'send the header "authorization: Bearer TOKEN" (`modelkeep token` prints the owner\'s), show a '
    "certificate where the service asks for one, or call through the UNIX socket that run/suite.json in the "
    "data folder names"
)


class SocketAuthenticator:
    """Whoever reaches the UNIX socket is the owner: its folder lets nobody else in.

    gRPC writes the peer by the socket that the connection was accepted on, so no caller over TCP can seem
    to come from here.
    """

    def authenticate(self, peer: str, metadata: Metadata, transport: Transport) -> Principal | None:
        """See :class:`Authenticator`."""
        return THE_OWNER if peer.startswith("unix:") else None


class Callers:
    """Asks the authenticators in order.

    Args:
        authenticators: The first that knows the caller decides.
        otherwise: Who a caller is whom none of them knows; None refuses the call.
        renewed: What they know of, in files.
    """

    def __init__(
        self,
        authenticators: Sequence[Authenticator],
        otherwise: Principal | None = None,
        renewed: Sequence[Renewed[Any]] = (),
    ) -> None:
        self._authenticators = tuple(authenticator.authenticate for authenticator in authenticators)
        self._otherwise = otherwise
        #: Has to look at its files now and then.
        self.renewed = tuple(renewed)

    def identify(self, peer: str, metadata: Metadata, transport: Transport) -> Principal:
        """The caller.

        Raises:
            CredentialsMissingException: The call shows nothing.
            CredentialsInvalidException: It shows something wrong.
        """
        for authenticate in self._authenticators:
            principal = authenticate(peer, metadata, transport)
            if principal is not None:
                return principal
        if self._otherwise is None:
            raise CredentialsMissingException(f"This service wants to know who calls: {HOW}.")
        return self._otherwise


def callers_of(settings: ServiceSettings) -> Callers:
    """Who may be who on the listeners of these settings; blocks to read the files about callers.

    Raises:
        StartupError: 78 for a file that is no good, or any import root where not only the owner works.
    """
    # Before tokens: they are shown through a connection, too.
    authenticators: list[Authenticator] = (
        [] if settings.tls_client_ca_file is None else [LivingCertificates()]
    )
    tokens: list[Tokens] = []
    renewed: list[Renewed[Any]] = []
    if (path := settings.token_file) is not None:
        listed = _renewed(path, partial(_listed, settings, path))
        renewed.append(listed)
        tokens.append(ListedTokens(lambda: listed.value))
    if (path := settings.jwt_jwks_file) is not None:
        from .jwts import JwtTokens, read_denied, read_keys  # cryptography is a tenth of a second

        # Of whoever its issuer says.
        _check_roots(settings, [Principal("whoever has a JWT", frozenset({OPERATOR}))])
        keys = _renewed(path, partial(read_keys, path, settings.jwt_algorithms))
        renewed.append(keys)
        denied: Callable[[], Denied] = frozenset
        if (path := settings.jwt_denied_file) is not None:
            withdrawn = _renewed(path, partial(read_denied, path))
            renewed.append(withdrawn)
            denied = lambda: withdrawn.value  # noqa: E731  it is asked at each call
        tokens.append(
            JwtTokens(
                lambda: keys.value,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                skew_s=settings.jwt_skew_s,
                roles_claim=settings.jwt_roles_claim,
                denied=denied,
            )
        )
    if tokens:
        authenticators.append(BearerAuthenticator(*tokens))
    if settings.unix_socket is not None:
        authenticators.append(SocketAuthenticator())
    if (path := settings.tls_callers_file) is not None:
        callers = _renewed(path, partial(_certified, settings, path))
        renewed.append(callers)
        authenticators.append(CertificateAuthenticator(lambda: callers.value))
    if settings.insecure and not knows_callers(settings):
        _check_roots(settings, [ANYBODY])
        return Callers(authenticators, ANYBODY)
    return Callers(authenticators, ANONYMOUS if settings.anonymous == "viewer" else None, renewed)


def knows_callers(settings: ServiceSettings) -> bool:
    """Whether there is anything to know callers over TCP by."""
    return any((settings.token_file, settings.jwt_jwks_file, settings.tls_callers_file))


def _renewed(path: Path, read: Callable[[], T]) -> Renewed[T]:
    try:
        return Renewed((path,), read, lambda why: _log.error("%s; what it said before still counts", why))
    except UnusableError as error:
        raise StartupError(EXIT_CONFIG, str(error)) from None


def _listed(settings: ServiceSettings, path: Path) -> StaticTokens:
    tokens = read_tokens(path)
    _check_roots_of_file(settings, tokens.principals)
    return tokens


def _certified(settings: ServiceSettings, path: Path) -> Sequence[Caller]:
    callers = read_callers(path)
    _check_roots_of_file(settings, [caller.example for caller in callers])
    return callers


def _check_roots_of_file(settings: ServiceSettings, known: Iterable[Principal]) -> None:
    try:
        _check_roots(settings, known)
    except StartupError as error:
        raise UnusableError(error.message) from None


def _check_roots(settings: ServiceSettings, known: Iterable[Principal]) -> None:
    """Whoever works beside the owner could have links followed to what only the owner may read.

    Raises:
        StartupError: 78 if somebody of these does, and any import root may be named.
    """
    if not getattr(settings, "allow_any_import_root", False):
        return
    others = [one.name for one in known if one.has(OPERATOR, ADMIN) and not one.has(OWNER)]
    if others:
        raise StartupError(
            EXIT_CONFIG,
            f"allow_any_import_root lets the owner have every file of this host read, and {others[0]} may "
            "install models too: name the folders in import_roots in its place",
        )
