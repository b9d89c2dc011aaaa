"""Who calls, and whether he may: the roles that a method takes are those of auth/table.py."""

from __future__ import annotations

from collections.abc import Mapping

from ..auth.callers import Identify, role_required
from ..auth.principal import NOBODY, Metadata, Principal
from ..auth.table import EVERYBODY, NO_ROLE


class Authentication:
    """Establishes the caller of one method after the other.

    Args:
        identify: Makes the Principal of a call.
        allowed: Full method name to the roles that may call it.
    """

    def __init__(self, identify: Identify, allowed: Mapping[str, frozenset[str]]) -> None:
        self._identify = identify
        self._allowed = allowed

    def principal_of(self, method: str, peer: str, metadata: Metadata) -> Principal:
        """Who calls, if he may.

        Raises:
            CredentialsMissingException, CredentialsInvalidException: It cannot be told.
            RoleRequiredException: He may not.
        """
        allowed = self._allowed.get(method, NO_ROLE)
        if allowed is EVERYBODY:
            return NOBODY
        principal = self._identify(peer, metadata)
        if principal.roles.isdisjoint(allowed):
            raise role_required(principal, method, allowed)
        return principal
