"""The services that a service calls."""

from __future__ import annotations

from modelkeep.defaults import EXIT_CONFIG, ServiceName
from modelkeep.exceptions import CredentialsMissingException
from modelkeep.rpc import Address, peer
from modelkeep.tls import CallerFiles, CallerTls

from .settings import ServiceSettings
from .startup import StartupError

__all__ = ["Address", "peer_address"]


def peer_address(service: ServiceName, target: str, settings: ServiceSettings) -> Address:
    """Where a peer is, and what to show it; blocks for a moment.

    Raises:
        StartupError: 78 if the token file, or those of TLS, cannot be read.
    """
    try:
        return peer(service, target, settings.peer_token_file, _tls(settings))
    except CredentialsMissingException as error:
        raise StartupError(EXIT_CONFIG, error.message) from None


def _tls(settings: ServiceSettings) -> CallerTls | None:
    if settings.peer_ca_file is None:
        return None
    return CallerTls(
        CallerFiles(
            settings.peer_ca_file,
            settings.tls_cert_file,
            settings.tls_key_file,
            ca_setting="peer_ca_file",
            pair_setting="tls_",
            remedy="Correct the setting.",
        )
    )
