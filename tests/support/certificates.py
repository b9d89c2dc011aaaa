"""Certificates for tests, made as `modelkeep certs dev` makes them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from modelkeep.devcerts import Issued, PrivateAuthority

#: An authority for whoever needs one and is not about authorities; making one takes a moment.
AUTHORITY = PrivateAuthority("test")
LOCALHOST = AUTHORITY.issue("localhost", "127.0.0.1", uri="spiffe://test/server")


def put(folder: Path, name: str, issued: Issued) -> tuple[Path, Path]:
    """A certificate and its key as files, in place of what is there; each appears whole."""
    folder.mkdir(exist_ok=True)
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    for path, text in zip(paths, (issued.certificate, issued.key), strict=True):
        scratch = path.with_name(f".{path.name}.new")
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text)
        scratch.replace(path)
    return paths


def tls_settings(folder: Path, *, clients: bool = True) -> dict[str, Path]:
    """Settings of a service that speaks TLS and, if asked to, wants certificates of callers."""
    cert, key = put(folder, "server", LOCALHOST)
    authority, _ = put(folder, "ca", AUTHORITY.issued)
    settings = {"tls_cert_file": cert, "tls_key_file": key}
    return {**settings, "tls_client_ca_file": authority} if clients else settings


def credentials(
    issued: Issued | None = None, authority: PrivateAuthority = AUTHORITY
) -> grpc.ChannelCredentials:
    """Of a caller with this certificate, who trusts this authority."""
    if issued is None:
        return grpc.ssl_channel_credentials(authority.issued.certificate)
    return grpc.ssl_channel_credentials(authority.issued.certificate, issued.key, issued.certificate)


def caller(role: str, authority: PrivateAuthority = AUTHORITY) -> Issued:
    """The certificate of a caller that :func:`callers_file` gives one role."""
    return authority.issue(uri=f"spiffe://test/{role}", server=False)


def self_signed(key: Any) -> Issued:
    """A certificate of nobody in particular, for a key of any kind."""
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    digest: Any = None if isinstance(key, Ed25519PrivateKey) else SHA256()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Issued(builder.sign(key, digest).public_bytes(Encoding.PEM), pem)
