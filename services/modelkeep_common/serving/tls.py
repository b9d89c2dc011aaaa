"""TLS of a service's TCP listener; its files may be replaced while it serves."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import grpc

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.renewed import Renewed, UnusableError
from modelkeep.tls import KeyPair, read_authorities, read_pair

from ..certificates import Lifetime, check_key, lifetime_of
from ..settings import ServiceSettings
from ..startup import StartupError
from .expiry import Expiry

_log = logging.getLogger(__name__)


class _Files(NamedTuple):
    """What is in the files."""

    pair: KeyPair
    client_authorities: bytes | None
    lifetime: Lifetime


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
        assert cert is not None, "there is no TLS without a certificate"
        files = [path for path in (cert, key, clients) if path is not None]
        self._begun = False
        try:
            self._renewed = Renewed(files, self._read, _complain)
        except UnusableError as error:
            raise StartupError(EXIT_CONFIG, str(error)) from None
        self._begun = True
        self._told: _Files | None = None
        self._expiry = Expiry(cert)
        self._expiry.look(self._renewed.value.lifetime)

    def look(self) -> None:
        """Look whether the files were replaced, and how long the certificate lasts. Blocks."""
        self._renewed.look()
        self._expiry.look(self._renewed.value.lifetime)

    def credentials(self) -> grpc.ServerCredentials:
        """For the listener; each new connection gets what the files said last."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._news,  # type: ignore[arg-type]  # the stubs do not know of None
            require_client_authentication=self.of_clients,
        )

    @property
    def of_clients(self) -> bool:
        """Whether callers show certificates, too."""
        return self._settings.tls_client_ca_file is not None

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC before each handshake, in a thread of its own; None: as before."""
        return None if self._renewed.value is self._told else self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        files = self._renewed.value
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
        pair = read_pair(settings.tls_cert_file, settings.tls_key_file, "tls_")
        authorities = None if clients is None else read_authorities(clients, "tls_client_ca_file")
        what = f"tls_cert_file {settings.tls_cert_file}"
        check_key(pair.certificates, what)
        lifetime = lifetime_of(pair.certificates, what)
        # A start with it is an error in the log alone: the next one mends it, and the socket is there.
        if self._begun and lifetime.end <= time.time():
            raise UnusableError(f"{what} has ended")
        return _Files(pair, authorities, lifetime)


def _complain(why: str) -> None:
    _log.error("%s; what was there before stays in use", why)
