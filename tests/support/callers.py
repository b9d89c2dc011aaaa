"""One caller for each role, by each kind of credentials that there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from modelkeep_common.auth import OWNER, ROLES
from support.certificates import AUTHORITY, caller, credentials, tls_settings
from support.jwts import Issuer, shown
from support.tokens import bearer, write_tokens


class Way(NamedTuple):
    """How callers of each role show who they are."""

    #: Of the service.
    settings: Mapping[str, Any]
    roles: frozenset[str]
    #: A channel to an address, for a role.
    channel: Callable[[str, str], grpc.aio.Channel]
    #: What a call of a role shows.
    metadata: Callable[[str], tuple[tuple[str, str], ...]]


def callers_file(path: Path, roles: Iterable[str] = ROLES, **more: Iterable[str]) -> Path:
    """Whose the certificates of support.certificates.caller are; ``more`` gives names any number of roles."""
    given = {**{role: [role] for role in roles}, **{name: sorted(has) for name, has in more.items()}}
    entries = [{"uri": f"spiffe://test/{name}", "name": name, "roles": has} for name, has in given.items()]
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"callers": entries}))
    scratch.replace(path)
    return path


def mtls_settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a service that knows the callers of ``callers_file`` by certificates, and further ones."""
    callers = callers_file(folder / "callers.json")
    return {**tls_settings(folder / "tls"), "tls_callers_file": callers, "insecure": False, **more}


def by_token(folder: Path) -> Way:
    tokens = write_tokens(folder / "tokens.json", {role: [role] for role in ROLES})
    return Way({"token_file": tokens}, ROLES, lambda to, role: grpc.aio.insecure_channel(to), bearer)


def by_certificate(folder: Path) -> Way:
    settings = {**tls_settings(folder), "tls_callers_file": callers_file(folder / "callers.json")}
    issued = {role: credentials(caller(role)) for role in ROLES}
    return Way(settings, ROLES, lambda to, role: grpc.aio.secure_channel(to, issued[role]), lambda role: ())


def by_jwt(folder: Path) -> Way:
    """Over TLS, without certificates of callers."""
    issuer = Issuer()
    settings = {**tls_settings(folder, clients=False), **issuer.settings(folder)}
    roles = ROLES - {OWNER}  # whom no issuer can name
    tokens = {role: issuer.token(role) for role in roles}
    trusting = credentials(authority=AUTHORITY)
    return Way(
        settings,
        roles,
        lambda to, role: grpc.aio.secure_channel(to, trusting),
        lambda role: shown(tokens[role]),
    )


WAYS: Mapping[str, Callable[[Path], Way]] = {
    "token": by_token,
    "certificate": by_certificate,
    "jwt": by_jwt,
}
