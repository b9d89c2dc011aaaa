"""The services that a service calls."""

from __future__ import annotations

from pathlib import Path

from modelkeep.defaults import EXIT_CONFIG, ServiceName
from modelkeep.exceptions import CredentialsMissingException
from modelkeep.rpc import Address, peer

from .startup import StartupError

__all__ = ["Address", "peer_address"]


def peer_address(service: ServiceName, target: str, token_file: Path | None) -> Address:
    """Where a peer is, and the token to show it; blocks for a moment.

    Raises:
        StartupError: 78 if the token file cannot be read.
    """
    try:
        return peer(service, target, token_file)
    except CredentialsMissingException as error:
        raise StartupError(EXIT_CONFIG, f"peer_token_file: {error.message}") from None
