"""Where the services are: what the caller says, the environment, the running suite, the default ports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from modelkeep.defaults import DEFAULT_ADDRESSES, SERVICES, ServiceName, find_data_dir
from modelkeep.exceptions import FieldInvalidException, FieldViolation, ForbiddenPathException
from modelkeep.rpc import Address, Token, TokenFile, variable
from modelkeep.suitefile import SuiteFile, read_suite_file, suite_file_path, token_path
from modelkeep.tls import CallerFiles, CallerTls


class TlsFiles(NamedTuple):
    """Which files of TLS a caller names.

    Attributes:
        ca_file: The authorities of the services.
        cert_file: His own certificate.
        key_file: Its private key; in `cert_file` by default.
    """

    ca_file: str | os.PathLike[str] | None = None
    cert_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None


def find_addresses(
    given: Mapping[ServiceName, str | None] | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    tls: TlsFiles | None = None,
    environ: Mapping[str, str] | None = None,
) -> dict[ServiceName, Address]:
    """The address of each service, from the first place that names one.

    Args:
        given: What the caller says, by service; None or missing: look elsewhere.
        data_dir: The suite's data folder, whose ``run/suite.json`` is read.
        token_file: File with the token to show; by default what MODELKEEP_TOKEN_FILE names.
        tls: Files of TLS for services that are called over TCP; what it leaves out is what MODELKEEP_CA_FILE,
            MODELKEEP_CERT_FILE and MODELKEEP_KEY_FILE name. Without authorities there is no TLS.
        environ: The environment; this process's by default.

    The order is: `given`, `data_dir`, ``MODELKEEP_CLIENT_<SERVICE>_ADDRESS``, ``MODELKEEP_DATA_DIR``, the
    suite in ``./modelkeep-data``, the default ports. Of a running suite its UNIX socket is taken; where that
    is out of reach, its port and the owner's token. That token is shown nowhere else. Where a data folder is
    named, or a suite found, no other suite is called in its place: a service that it does not have has no
    address, and to call it is an error.

    Raises:
        ForbiddenPathException: The suite in ``./modelkeep-data`` is another user's, and nobody named it.
        FieldInvalidException: There is a certificate to show, and no authorities.
    """
    environ = os.environ if environ is None else environ
    given = given or {}
    folder = find_data_dir(data_dir, environ)
    suite_file = suite_file_path(folder)
    is_named = bool(data_dir or environ.get("MODELKEEP_DATA_DIR"))
    if not is_named:
        _refuse_strangers(suite_file)
    found = read_suite_file(folder)
    suite = found or SuiteFile()
    running, sockets = suite.addresses, suite.sockets
    named = token_file or environ.get("MODELKEEP_TOKEN_FILE")
    shown: Token | None = TokenFile(Path(named)) if named else None
    owners = TokenFile(token_path(folder))
    secured = _caller_tls(tls or TlsFiles(), environ)

    def token_for(target: str) -> Token | None:
        if shown is None and target in running.values() and os.access(owners.path, os.R_OK):
            return owners
        return shown

    def find(service: ServiceName) -> Address:
        if target := given.get(service):
            return Address(service, target, "the caller", token=token_for(target), tls=secured)
        if not data_dir and (target := environ.get(variable(service))):
            origin = f"the environment variable {variable(service)}"
            return Address(service, target, origin, token=token_for(target), tls=secured)
        if (path := sockets.get(service)) and os.access(path, os.W_OK):
            return Address(service, f"unix:{path}", str(suite_file), token=shown)
        if target := running.get(service):
            by_its_own = secured or (own_tls(suite.certs) if suite.certs else None)
            return Address(service, target, str(suite_file), token=token_for(target), tls=by_its_own)
        if found is not None:
            return Address(service, "", f"the suite in {folder} runs without it", _remedy(folder))
        if is_named:
            return Address(service, "", f"no suite runs on {folder}", _remedy(folder))
        return Address(service, DEFAULT_ADDRESSES[service], "the default port", token=shown, tls=secured)

    return {service: find(service) for service in SERVICES}


def find_token(
    data_dir: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """The token that MODELKEEP_TOKEN_FILE names, or that of the owner of the suite on the data folder.

    Raises:
        CredentialsMissingException: There is none that this user can read.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("MODELKEEP_TOKEN_FILE")
    return TokenFile(Path(named) if named else token_path(find_data_dir(data_dir, environ)))()


def _remedy(folder: Path) -> str:
    return f"Start it with `modelkeep up --data-dir {folder}`, or name another data folder."


def _refuse_strangers(suite_file: Path) -> None:
    """A suite that merely lies where the caller stands may have been put there by anybody."""
    data_dir = suite_file.parent.parent
    try:
        owners = {path.lstat().st_uid for path in (data_dir, suite_file.parent, suite_file)}
    except OSError:
        return  # there is none that could be read
    if strangers := owners - {0, os.geteuid()}:
        raise ForbiddenPathException(
            f"The suite in {data_dir} is of another user (uid {strangers.pop()}) and not called unasked. "
            f"If you mean it, say so: --data-dir {data_dir}, or MODELKEEP_DATA_DIR={data_dir}.",
            metadata={"path": str(data_dir)},
        )


def own_tls(folder: str | os.PathLike[str]) -> CallerTls:
    """How the owner of a suite calls it by TLS.

    Args:
        folder: Of certificates, as ``modelkeep certs dev`` makes it.
    """
    certs = Path(folder)
    return CallerTls(CallerFiles(certs / "ca.pem", certs / "client.pem", certs / "client.key"))


def _caller_tls(given: TlsFiles, environ: Mapping[str, str]) -> CallerTls | None:
    ca, cert, key = (
        value or environ.get(f"MODELKEEP_{name.upper()}") or None for name, value in given._asdict().items()
    )
    if ca is None:
        if cert or key:
            raise FieldInvalidException(
                "A certificate is shown over TLS, for which the authorities of the services have to be "
                "known: name them with --ca-file or MODELKEEP_CA_FILE.",
                violations=[FieldViolation("ca_file", "is needed where a certificate is shown")],
            )
        return None
    cert_file, key_file = (None if path is None else Path(path).expanduser() for path in (cert, key))
    return CallerTls(CallerFiles(Path(ca).expanduser(), cert_file, key_file))
