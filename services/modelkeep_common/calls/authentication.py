"""Who calls, and whether he may: the roles that a method takes are those of auth/table.py."""

from __future__ import annotations

from collections.abc import Mapping

from modelkeep.exceptions import RoleRequiredException

from ..auth.callers import HOW, Identify
from ..auth.principal import NOBODY, Metadata, Principal, Transport
from ..auth.table import EVERYBODY, NO_ROLE
from .call import Call


class Authentication:
    """Establishes the caller of one method after the other.

    Args:
        identify: Makes the Principal of a call.
        allowed: Full method name to the roles that may call it.
    """

    def __init__(self, identify: Identify, allowed: Mapping[str, frozenset[str]]) -> None:
        self._identify = identify
        self._allowed = allowed

    def principal_of(self, method: str, peer: str, metadata: Metadata, transport: Transport) -> Principal:
        """Who calls, if he may.

        Raises:
            CredentialsMissingException, CredentialsInvalidException: It cannot be told.
            RoleRequiredException: He may not.
        """
        allowed = self._allowed.get(method, NO_ROLE)
        if allowed is EVERYBODY:
            return NOBODY
        principal = self._identify(peer, metadata, transport)
        if principal.roles.isdisjoint(allowed):
            raise _role_required(principal, method, allowed)
        return principal


def need_role(call: Call, field: str, *roles: str) -> None:
    """Check that the caller has one of the roles that a field of the request takes.

    Raises:
        RoleRequiredException: He has none of them.
    """
    if not call.principal.has(*roles):
        raise _role_required(call.principal, call.method, frozenset(roles), field)


def _role_required(
    principal: Principal, method: str, allowed: frozenset[str], field: str = ""
) -> RoleRequiredException:
    """The answer to a caller who has none of the roles that a method, or a field of its request, takes."""
    wanted = " or ".join(sorted(allowed)) or "(none: it is closed)"
    has = ", ".join(sorted(principal.roles))
    what = f"{field} of {method}" if field else method
    metadata = {"role": ",".join(sorted(allowed)), "method": method, "principal": principal.name}
    return RoleRequiredException(
        f"{what} takes the role {wanted}; {principal.name} is {has}: {HOW}.",
        metadata={**metadata, "field": field} if field else metadata,
    )
