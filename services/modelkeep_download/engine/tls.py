"""TLS over a channel: whom to trust, the handshake, records, and what a failed handshake means.

The records come through a buffer of our own (`ssl.MemoryBIO`) in place of the socket that `ssl` would read
twice for each record of 16 KiB: a quarter less CPU a GiB (docs/adr/0015).
"""

from __future__ import annotations

import functools
import socket
import ssl
import threading

from modelkeep.exceptions import UpstreamUnavailableException
from modelkeep_download.domain.retry import TransientError
from modelkeep_download.engine.channel import Channel, describe

#: Bytes taken off the socket at once.
_RAW_BYTES = 128 * 1024
#: What OpenSSL calls an answer that is no TLS.
_NO_TLS = frozenset(
    {
        *("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL"),
        *("PACKET_LENGTH_TOO_LONG", "BAD_RECORD_TYPE", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"),
    }
)
#: What it calls a server that does not go together with us, and will not later.
_NO_AGREEMENT = frozenset(
    {
        *("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        *("TLSV1_ALERT_INSUFFICIENT_SECURITY", "NO_SHARED_CIPHER", "DH_KEY_TOO_SMALL", "EE_KEY_TOO_SMALL"),
        *("WRONG_SIGNATURE_TYPE", "UNSAFE_LEGACY_RENEGOTIATION_DISABLED", "TLSV1_UNRECOGNIZED_NAME"),
        *("TLSV1_ALERT_UNRECOGNIZED_NAME", "SSLV3_ALERT_ILLEGAL_PARAMETER", "WRONG_SSL_VERSION"),
    }
)
_WANTS_CERTIFICATE = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE"})
_scratch = threading.local()


@functools.cache
def default_tls() -> ssl.SSLContext:
    """Certificates as the system trusts them; read at the first https request."""
    return ssl.create_default_context()


class TlsChannel(Channel):
    """A channel whose bytes are in TLS records.

    Raises:
        ValueError: The host has no name that a certificate could have.
    """

    _by_records = True

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shake_hands(self) -> None:
        """Agree on keys, and check the certificate.

        Raises:
            ssl.SSLError: As OpenSSL's.
            OSError: As the socket's; TimeoutError if it takes too long.
        """
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._pull(wait=True)
            except ssl.SSLError:
                self._flush()  # it tells the other side why
                raise

    @property
    def is_clean(self) -> bool:
        """See `Channel`."""
        return not self._incoming.pending and not self._tls.pending() and super().is_clean

    def send(self, data: bytes) -> None:
        """See `Channel`."""
        self._tls.write(data)
        self._flush()

    def _receive_some(self, buffer: memoryview, *, wait: bool) -> int | None:
        while True:
            try:
                # Bytes missing at the end of a record are an error, and so is an end without TLS's own
                # farewell: whoever cuts the connection cannot make a body look whole.
                return self._tls.read(len(buffer), buffer)  # type: ignore[return-value]  # with a buffer, a count
            except ssl.SSLWantReadError:
                self._flush()  # a change of keys may have an answer
                if not self._pull(wait=wait):
                    return None

    def _pull(self, *, wait: bool) -> bool:
        """Take records off the socket; whether any, or their end, has come."""
        raw: memoryview = getattr(_scratch, "raw", None) or memoryview(bytearray(_RAW_BYTES))
        _scratch.raw = raw
        count = super()._receive_some(raw, wait=wait)
        if count:
            self._incoming.write(raw[:count])
        elif count == 0:
            self._incoming.write_eof()
        return count is not None

    def _flush(self) -> None:
        while self._outgoing.pending:
            super().send(self._outgoing.read())


def refused_handshake(error: Exception, host: str, port: int) -> Exception:
    """The error for a handshake that failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = (
            "if it is of an authority of your own, start the service with tls_ca_file naming a file of the"
            " authorities to trust"
        )
        return UpstreamUnavailableException(
            f"{host} shows a certificate that is not valid: {error.verify_message}; {remedy}",
            metadata={"peer": host, "remedy": remedy},
        )
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason in _NO_TLS:
        return TransientError(f"{host}:{port} speaks no TLS: is it http, not https?", tries=1)
    if reason in _WANTS_CERTIFICATE:
        text = f"{host}:{port} wants a certificate of its client, and this service has none"
        return TransientError(text, tries=1)
    if reason in _NO_AGREEMENT:
        text = f"{host}:{port} and this service find no TLS that both accept: {describe(error)}"
        if reason == "SSLV3_ALERT_HANDSHAKE_FAILURE":
            text += "; perhaps it wants a certificate of its client, and this service has none"
        return TransientError(text, tries=1)
    return TransientError(f"{host} does not answer as it should: {describe(error)}")
