"""Certificates and keys of TLS, in files of PEM: read, checked, and what a caller needs of them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modelkeep.private import NotPrivateError, check_private
from modelkeep.renewed import UnusableError, reading


@dataclass(frozen=True, slots=True)
class CallerFiles:
    """The files of who calls over TLS.

    Attributes:
        ca_file: The authorities whose word for a service is taken.
        cert_file: The caller's own certificate, with those between it and its authority; None shows none.
        key_file: Its private key.
    """

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """The files that there are."""
        return tuple(path for path in (self.ca_file, self.cert_file, self.key_file) if path is not None)


class KeyPair(NamedTuple):
    """A certificate with its private key, as PEM."""

    key: bytes
    certificates: bytes


class CallerSecrets(NamedTuple):
    """What is in the files of a caller."""

    authorities: bytes
    pair: KeyPair | None


def read_pair(cert_file: Path, key_file: Path, setting: str = "") -> KeyPair:
    """A certificate and its key, which may stand in one file. Blocks.

    Args:
        cert_file: The certificate, then those between it and its authority.
        key_file: The key, without a passphrase.
        setting: What goes before ``cert_file`` and ``key_file`` in texts: "tls\\_".

    Raises:
        UnusableError: One cannot be read, others may read the key, or they do not belong together.
    """
    cert_name, key_name = f"{setting}cert_file", f"{setting}key_file"
    try:
        check_private(key_file, key_file.stat())
    except OSError as error:
        raise UnusableError(f"cannot read {key_name} {key_file}: {error.strerror}") from None
    except NotPrivateError as error:
        raise UnusableError(f"{key_name} {error}") from None
    certificates, key = reading(cert_file, cert_name), reading(key_file, key_name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise UnusableError(
            f"{cert_name} {cert_file} and {key_name} {key_file} are no certificate and its private key, each "
            f"as PEM ({_why(error)})"
        ) from None
    return KeyPair(key, certificates)


def read_authorities(path: Path, setting: str) -> bytes:
    """The certificates of authorities. Blocks.

    Args:
        path: The file.
        setting: Its name in texts.

    Raises:
        UnusableError: It cannot be read, or holds no certificate.
    """
    text = reading(path, setting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableError(f"{setting} {path} holds no certificates as PEM ({_why(error)})") from None
    return text


def read_caller(files: CallerFiles, setting: str = "") -> CallerSecrets:
    """What is in the files of a caller. Blocks.

    Raises:
        UnusableError: They are no good.
    """
    authorities = read_authorities(files.ca_file, f"{setting}ca_file")
    if files.cert_file is None:
        return CallerSecrets(authorities, None)
    return CallerSecrets(authorities, read_pair(files.cert_file, files.key_file or files.cert_file, setting))


def _no_passphrase() -> str:
    """Without it OpenSSL would ask at the terminal."""
    raise ValueError("the key has a passphrase: give one without")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
