"""Who calls, and what establishes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

#: A call's headers; names in lower case.
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

#: Gives what the transport has found out of the caller: by TLS, ``peer_dns`` and ``peer_uri`` of a
#: certificate that an authority vouches for. Asked only by who needs it.
Transport: TypeAlias = Callable[[], Mapping[str, Sequence[bytes]]]

#: Looks: lists, reads, watches.
VIEWER = "viewer"
#: Works with models: installs, downloads, updates, uninstalls, leases.
OPERATOR = "operator"
#: Does everything that is not the owner's alone.
ADMIN = "admin"
#: Besides ADMIN: whose files the suite's files are. Only he may have files read from anywhere.
OWNER = "owner"
#: The services themselves, and the processes that compute with models.
RECORD, DOWNLOAD, INSTALL, LOADER, WORKER = "record", "download", "install", "loader", "worker"

#: Every role there is.
ROLES = frozenset({VIEWER, OPERATOR, ADMIN, OWNER, RECORD, DOWNLOAD, INSTALL, LOADER, WORKER})


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        name: Who it is, as it stands in logs; the same caller has the same name over every listener.
        roles: Some of :data:`ROLES`; they imply nothing, each is written out.
    """

    name: str
    roles: frozenset[str]

    def has(self, *roles: str) -> bool:
        """Whether it has one of these roles."""
        return not self.roles.isdisjoint(roles)


#: Outside of calls, and for methods that need no caller.
NOBODY = Principal("", frozenset())
#: Who started the suite.
THE_OWNER = Principal(OWNER, frozenset({ADMIN, OWNER}))


class Authenticator(Protocol):
    """Establishes who calls by one kind of credentials."""

    def authenticate(self, peer: str, metadata: Metadata, transport: Transport) -> Principal | None:
        """The caller.

        Args:
            peer: Where the call comes from, as gRPC says it: ``ipv4:127.0.0.1:5000``, ``unix:``.
            metadata: The call's headers.
            transport: What the connection tells.

        Returns:
            None if the call shows no credentials of this kind.

        Raises:
            CredentialsInvalidException: It shows some, and they are wrong.
        """
        ...
