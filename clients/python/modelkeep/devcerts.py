"""A private authority and its certificates, for development and tests: ``modelkeep certs dev``."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelkeep.defaults import SERVICES

#: Who else has a certificate.
CLIENT: Final = "client"
GATEWAY: Final = "gateway"
#: The hosts that every certificate of a server is for, besides its own name.
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
#: What the names of callers begin with.
TRUST_DOMAIN: Final = "spiffe://modelkeep/"
#: Clocks that are behind shall take a new certificate all the same.
_EARLIER: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class PrivateAuthority:
    """An authority whose word counts where its certificate is trusted, and nowhere else.

    Args:
        name: Its name.
        days: How long it lasts; what it signs ends with it.
    """

    def __init__(self, name: str = "modelkeep development", days: float = 365) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._end = datetime.now(UTC) + timedelta(days=days)
        signs = _usage(key_cert_sign=True, crl_sign=True)
        certificate = (
            self._builder(self._name, self._key.public_key(), self._end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(signs, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._certificate = certificate
        #: Its own certificate, to be trusted, and its key.
        self.issued = Issued(certificate.public_bytes(serialization.Encoding.PEM), _key_text(self._key))

    def issue(
        self, *hosts: str, uri: str = "", server: bool = True, client: bool = True, days: float | None = None
    ) -> Issued:
        """A certificate with a new key.

        Args:
            hosts: The DNS names and addresses that it is for.
            uri: Another name: that of a workload, as SPIFFE writes it.
            server: Whether its holder may be called by it.
            client: Whether its holder may call by it.
            days: How long it lasts; as long as the authority by default. Negative: it has ended.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[Any] = [_host_name(host) for host in hosts]
        names += [x509.UniformResourceIdentifier(uri)] if uri else []
        uses = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (uri or hosts[0])[:64])])
        end = self._end if days is None else min(self._end, datetime.now(UTC) + timedelta(days=days))
        made = (
            self._builder(subject, key.public_key(), end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(made.public_bytes(serialization.Encoding.PEM), _key_text(key))

    def _builder(self, subject: Any, key: Any, end: datetime) -> Any:
        begin = min(datetime.now(UTC), end) - _EARLIER
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def make_certificates(folder: Path, hosts: Sequence[str] = (), days: float = 365) -> tuple[Path, ...]:
    """Make an authority and what a suite needs of it in a new or empty folder.

    ``ca.pem`` and ``ca.key``; for each service, ``gateway`` and ``client`` its ``.pem`` and ``.key``; and
    ``callers.json``, which says whose they are: a service's has the role of that service, the client's is the
    owner's, and through the gateway pass others, who show tokens.

    Args:
        folder: The folder; it becomes this user's alone.
        hosts: Further DNS names and addresses that services and the gateway are called by. Each is called by
            its short name as well, and by those of this machine.
        days: How long all of it lasts.

    Returns:
        The files.

    Raises:
        FileExistsError: The folder is not empty; nothing was written.
        OSError: It cannot be written.
        ValueError: A host is no name and no address.
    """
    authority = PrivateAuthority(days=days)
    issued = {"ca": authority.issued}
    for name in (*SERVICES, GATEWAY):
        issued[name] = authority.issue(name, *LOCAL_HOSTS, *hosts, uri=TRUST_DOMAIN + name)
    issued[CLIENT] = authority.issue(uri=TRUST_DOMAIN + CLIENT, server=False)
    contents = {
        f"{name}.{ending}": text
        for name, one in issued.items()
        for ending, text in (("pem", one.certificate), ("key", one.key))
    }
    contents["callers.json"] = (json.dumps({"callers": _callers()}, indent=1) + "\n").encode()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; nothing was written")
    folder.chmod(0o700)  # of one that was there
    return tuple(write(folder / name, text) for name, text in contents.items())


def write(path: Path, text: bytes) -> Path:
    """Write a new file; a key is its user's alone.

    Raises:
        FileExistsError: It is there already.
    """
    mode = 0o600 if path.suffix == ".key" else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return path


def _callers() -> list[dict[str, Any]]:
    services = [{"uri": TRUST_DOMAIN + name, "name": name, "roles": [name]} for name in SERVICES]
    return [
        *services,
        {"uri": TRUST_DOMAIN + CLIENT, "name": "owner", "roles": ["admin", "owner"]},
        {"uri": TRUST_DOMAIN + GATEWAY, "name": GATEWAY, "roles": []},
    ]


def _host_name(host: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_text(key: Any) -> bytes:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return text


def _usage(**uses: bool) -> Any:
    names = (
        *(
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
        ),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})
