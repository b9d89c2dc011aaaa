"""Certificates and keys of TLS, in files of PEM: read, checked, and what a caller needs of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modelkeep.exceptions import CredentialsMissingException
from modelkeep.private import check_own, check_private
from modelkeep.renewed import Renewed, UnusableError, reading

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CallerFiles:
    """The files of who calls over TLS.

    Attributes:
        ca_file: The authorities whose word for a service is taken.
        cert_file: The caller's own certificate, with those between it and its authority; None shows none.
        key_file: Its private key; None: it stands in `cert_file`.
        ca_setting: What `ca_file` is called in texts.
        pair_setting: What goes before ``cert_file`` and ``key_file`` there.
        remedy: What to do when they are no good, as a sentence.
    """

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None
    ca_setting: str = "ca_file"
    pair_setting: str = ""
    remedy: str = (
        "Name others with --ca-file, --cert-file and --key-file, or MODELKEEP_CA_FILE, MODELKEEP_CERT_FILE "
        "and MODELKEEP_KEY_FILE."
    )

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
    certificates, key = reading(cert_file, cert_name), reading(key_file, key_name, check_private)
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
        UnusableError: It cannot be read, others could change it, or it holds no certificate.
    """
    text = reading(path, setting, check_own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UnusableError(f"{setting} {path} holds no certificates as PEM ({_why(error)})") from None
    return text


def read_caller(files: CallerFiles) -> CallerSecrets:
    """What is in the files of a caller. Blocks.

    Raises:
        UnusableError: They are no good.
    """
    authorities = read_authorities(files.ca_file, files.ca_setting)
    if files.cert_file is None:
        return CallerSecrets(authorities, None)
    key_file = files.key_file or files.cert_file
    return CallerSecrets(authorities, read_pair(files.cert_file, key_file, files.pair_setting))


class CallerTls:
    """How a caller speaks TLS: by files that are read when it first does, and may be replaced after that."""

    def __init__(self, files: CallerFiles) -> None:
        self.files = files
        self._renewed: Renewed[CallerSecrets] | None = None

    def secrets(self) -> CallerSecrets:
        """What the files say; on an event loop, of a moment before.

        Raises:
            CredentialsMissingException: They are no good to begin with.
        """
        if self._renewed is None:
            try:
                self._renewed = Renewed(self.files.all, lambda: read_caller(self.files), _complain)
            except UnusableError as error:
                raise CredentialsMissingException(
                    f"{error}. {self.files.remedy}", metadata={"path": str(self.files.ca_file)}
                ) from None
        if self._renewed.is_due:
            _look(self._renewed)
        return self._renewed.value


def _look(renewed: Renewed[CallerSecrets]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        renewed.look()
        return
    with contextlib.suppress(RuntimeError):  # the loop's threads have ended: this is one of the last calls
        loop.run_in_executor(None, renewed.look)


def _complain(why: str) -> None:
    _log.warning("%s; what was there before is shown", why)


def trouble(said: str, files: CallerFiles | None) -> tuple[str, str] | None:
    """What TLS has to do with a connection that failed: why, and what helps, as a sentence.

    Args:
        said: What gRPC says of it.
        files: Those of the caller; None if he called in plaintext.

    Returns:
        None if it has nothing to do with it.
    """
    ca_setting = "ca_file" if files is None else files.ca_setting
    if "CERTIFICATE_VERIFY_FAILED" in said:
        why = said.partition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK")
        return (
            f"its certificate is not taken, {why}",
            f"Have that service renew its certificate, or name its authorities with {ca_setting}.",
        )
    if "Hostname Verification" in said:
        return "its certificate is for other hosts", "Call it by a host that its certificate names."
    if "WRONG_VERSION_NUMBER" in said:
        return "it speaks no TLS", f"Leave out {ca_setting}, or have it speak TLS."
    # A connection that was there, and is lost in the middle of a call, is nothing of TLS.
    if "last error" not in said or ("Socket closed" not in said and "Connection reset" not in said):
        return None
    if files is None:
        return "it closed the connection", "If it speaks TLS, name its authorities with --ca-file."
    if files.cert_file is None:
        return (
            "it closed the connection",
            "If it wants a certificate, show one: --cert-file, --key-file.",
        )
    return "it closed the connection", "Perhaps it does not take this certificate, or it speaks no TLS."


def _no_passphrase() -> str:
    """Without it OpenSSL would ask at the terminal."""
    raise ValueError("the key has a passphrase: give one without")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
