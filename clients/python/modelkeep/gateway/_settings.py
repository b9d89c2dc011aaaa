"""What a gateway is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelkeep.defaults import DASHBOARD_PORT
from modelkeep.gateway._api import DESCRIPTOR_SET
from modelkeep.hosts import bracketed

#: The hosts that the gateway of a suite on this machine answers for. Another name that leads to a loopback
#: address is that of a page which wants to look like one of ours (DNS rebinding).
LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost")
#: In names of certificates: the service that is called.
SERVICE: Final = "{service}"


class GatewayError(ValueError):
    """A gateway cannot be as it is asked for; the text says why, and what helps."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What the gateway shows to those who call it, and what it wants of them.

    Attributes:
        cert_file: Its chain of certificates, PEM.
        key_file: Its private key, PEM.
        client_ca_file: Authorities of its callers' certificates; None asks callers for none.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class UpstreamCertificate:
    """How the gateway knows the services, and what it shows them.

    Attributes:
        ca_file: The authorities of their certificates, PEM.
        names: Names of which a service's certificate must have one: DNS names, or URIs (``spiffe://…``);
            ``{service}`` in them stands for the service's short name.
        cert_file: Its own chain of certificates for them; None shows none.
        key_file: The key of that.
    """

    ca_file: Path
    names: Sequence[str]
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway.

    Attributes:
        services: Short name of a service ("record", …) to its addresses over TCP, ``host:port``. Calls to a
            service that is not named are answered with UNAVAILABLE.
        host: The address to listen on.
        port: The port to listen on.
        names: Hosts that it answers for, at its port, or at that of ``host:port``, by which callers find it
            behind something that maps ports. Everything else is refused. None: any.
        origins: Other origins whose pages may call it (CORS), such as ``https://ui.example.com``.
        denied: Methods that nobody may call through it, ``modelkeep.record.v1.RecordService/ImportModels``.
        pages: Folder of the dashboard's built files; None serves the API alone.
        pages_at: That folder, where Envoy finds it; None: at the same place.
        descriptor_set: The API's descriptors, where Envoy finds them.
        stream_idle_s: Seconds after which a stream is ended on which nothing came. Watches and leases say
            something at least every 30 s.
        retries: How often a call is tried again that may be sent twice.
        tls: The certificate to serve with; None serves plaintext.
        upstream_tls: How to call the services by TLS; None calls them in plaintext.
        secrets_at: Folder of the files that :func:`secrets` makes, which name the certificates, where Envoy
            finds it: they are then read again when they are replaced. None: they are read at its start.
        admin_socket: Path of a UNIX socket for Envoy's administration; None has none.
        max_connections: Connections at once.
    """

    services: Mapping[str, Sequence[str]]
    host: str = "127.0.0.1"
    port: int = DASHBOARD_PORT
    names: Sequence[str] | None = LOOPBACK_NAMES
    origins: Sequence[str] = ()
    denied: Sequence[str] = ()
    pages: Path | None = None
    pages_at: Path | None = None
    descriptor_set: Path = DESCRIPTOR_SET
    stream_idle_s: float = 3600.0
    retries: int = 3
    tls: ServerCertificate | None = None
    upstream_tls: UpstreamCertificate | None = None
    secrets_at: Path | None = None
    admin_socket: Path | None = None
    max_connections: int = 4096

    @property
    def own_origins(self) -> tuple[str, ...]:
        """The origins of pages that it serves itself, as browsers write them."""
        scheme, usual = ("http", 80) if self.tls is None else ("https", 443)
        places = (_place(name, self.port) for name in self.names or ())
        return tuple(f"{scheme}://{host}" + (f":{port}" if port != usual else "") for host, port in places)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of requests that it answers, as callers write them."""
        # Browsers leave out the port that is the scheme's own; who calls by gRPC may write it.
        usual = 80 if self.tls is None else 443
        places = [_place(name, self.port) for name in self.names or ()]
        short = [host for host, port in places if port == usual]
        return tuple(dict.fromkeys((*short, *(f"{host}:{port}" for host, port in places))))


def _place(name: str, port: int) -> tuple[str, int]:
    """Host and port of a name, which may leave out the port."""
    host, colon, said = name.lower().rpartition(":")
    if colon and said.isdecimal() and (":" not in host or host.endswith("]")):
        return host, int(said)
    return bracketed(name.lower()), port
