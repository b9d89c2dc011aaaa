"""TLS of a service's TCP listener; its files may be replaced while it serves."""

from __future__ import annotations

import logging
from typing import NamedTuple

import grpc

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.renewed import Renewed, UnusableError
from modelkeep.tls import KeyPair, read_authorities, read_pair

from ..settings import ServiceSettings
from ..startup import StartupError

_log = logging.getLogger(__name__)


class _Files(NamedTuple):
    """What is in the files."""

    pair: KeyPair
    client_authorities: bytes | None


class ServerTls:
    """What the listener shows, and whom it lets connect. Blocks to read the files.

    Args:
        settings: Of a service with ``tls_cert_file``.

    Raises:
        StartupError: 78 for files that are no good.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        cert, key, clients = settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
        files = [path for path in (cert, key, clients) if path is not None]
        try:
            #: Has to look at the files now and then.
            self.renewed = Renewed(files, self._read, _complain)
        except UnusableError as error:
            raise StartupError(EXIT_CONFIG, str(error)) from None
        self._told: _Files | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For the listener; each new connection gets what the files said last."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._news,  # type: ignore[arg-type]  # the stubs do not know of None
            require_client_authentication=self._of_clients(),
        )

    def _of_clients(self) -> bool:
        return self._settings.tls_client_ca_file is not None

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC before each handshake, in a thread of its own; None: as before."""
        return None if self.renewed.value is self._told else self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        files = self.renewed.value
        if self._told is not None:
            file = str(self._settings.tls_cert_file)
            _log.info("a new certificate is in use", extra={"fields": {"tls_cert_file": file}})
        self._told = files
        return grpc.ssl_server_certificate_configuration([files.pair], files.client_authorities)

    def _read(self) -> _Files:
        settings = self._settings
        assert settings.tls_cert_file is not None, "the settings have both or none"
        assert settings.tls_key_file is not None, "the settings have both or none"
        clients = settings.tls_client_ca_file
        return _Files(
            read_pair(settings.tls_cert_file, settings.tls_key_file, "tls_"),
            None if clients is None else read_authorities(clients, "tls_client_ca_file"),
        )


def _complain(why: str) -> None:
    _log.error("%s; what was there before stays in use", why)
