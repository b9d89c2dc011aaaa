"""Writes the configuration of a gateway: ``python -P -m modelkeep.gateway --record HOST:PORT …``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TextIO

import yaml

from modelkeep.defaults import DEFAULT_ADDRESSES, SERVICES
from modelkeep.gateway import (
    DESCRIPTOR_SET,
    Gateway,
    GatewayError,
    ServerCertificate,
    UpstreamCertificate,
    bootstrap,
    find_pages,
    secrets,
)

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/A-Z]+").fullmatch


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -P -m modelkeep.gateway",
        description="Write the configuration of an Envoy in front of the four services, as YAML, to stdout. "
        "@FILE reads arguments from a file, one a line.",
        fromfile_prefix_chars="@",
    )
    for name in SERVICES:
        made.add_argument(
            f"--{name}",
            action="append",
            metavar="HOST:PORT",
            help=f"address of {name} over TCP; several times for several; 'none' for no such service "
            f"(default: {DEFAULT_ADDRESSES[name]})",
        )
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    made.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    made.add_argument(
        "--name",
        action="append",
        help="host that it answers for, at its port unless it names another (HOST:PORT); 'any' for every one "
        "(default: 127.0.0.1 and localhost)",
    )
    made.add_argument(
        "--origin", action="append", default=[], help="other origin whose pages may call (CORS)"
    )
    made.add_argument(
        "--deny", action="append", default=[], metavar="SERVICE/METHOD", help="method to refuse"
    )
    made.add_argument(
        "--pages", type=Path, help="folder of the dashboard's built files (default: the package's)"
    )
    made.add_argument(
        "--pages-at", type=Path, help="that folder, where Envoy finds it (default: the same place)"
    )
    made.add_argument("--no-pages", action="store_true", help="the API alone")
    made.add_argument(
        "--descriptor-set",
        type=Path,
        default=DESCRIPTOR_SET,
        help="modelkeep/api.binpb, where Envoy finds it (default: the package's)",
    )
    made.add_argument(
        "--stream-idle-s", type=float, default=3600.0, help="end of silent streams (default: 3600)"
    )
    made.add_argument("--retries", type=int, default=3, help="further tries of idempotent calls (default: 3)")
    made.add_argument(
        "--admin-socket", type=Path, help="UNIX socket of Envoy's administration (default: none)"
    )
    tls = made.add_argument_group("TLS")
    tls.add_argument("--cert-file", type=Path, help="certificate to serve with, PEM")
    tls.add_argument("--key-file", type=Path, help="its key, PEM")
    tls.add_argument("--client-ca-file", type=Path, help="authorities of callers' certificates: mTLS")
    tls.add_argument("--upstream-ca-file", type=Path, help="authorities of the services' certificates")
    tls.add_argument(
        "--upstream-name",
        action="append",
        default=[],
        help="name, or URI, that a service's certificate must have; '{service}' in it is the service's own",
    )
    tls.add_argument("--upstream-cert-file", type=Path, help="certificate to show to the services: mTLS")
    tls.add_argument("--upstream-key-file", type=Path, help="its key, PEM")
    tls.add_argument(
        "--secrets-at",
        type=Path,
        help="folder of files that name the certificates, where Envoy finds it: by them it reads them "
        "again when they are replaced (default: none, they are read at its start)",
    )
    tls.add_argument("--write-secrets", type=Path, metavar="FOLDER", help="write these files, too")
    return made


def gateway_from(said: argparse.Namespace) -> Gateway:
    """The gateway of a command line.

    Raises:
        GatewayError: Its arguments do not fit each other.
    """
    if (said.cert_file is None) != (said.key_file is None):
        raise GatewayError("--cert-file and --key-file go together")
    if (said.upstream_cert_file is None) != (said.upstream_key_file is None):
        raise GatewayError("--upstream-cert-file and --upstream-key-file go together")
    if said.upstream_ca_file is None and (said.upstream_cert_file or said.upstream_name):
        raise GatewayError("name the authorities of the services' certificates, too: --upstream-ca-file")
    if said.upstream_ca_file is not None and not said.upstream_name:
        raise GatewayError(
            "say by which name the services are known, or any certificate of these authorities would do: "
            "--upstream-name"
        )
    if said.client_ca_file is not None and said.cert_file is None:
        raise GatewayError("callers show certificates over TLS only: name --cert-file and --key-file")
    if strange := [origin for origin in said.origin if not _ORIGIN(origin)]:
        raise GatewayError(
            f"{strange[0]!r} is no origin as browsers write it: https://ui.example.com, or with a port, in "
            "lower case and without a path"
        )
    given = {name: getattr(said, name) or [DEFAULT_ADDRESSES[name]] for name in SERVICES}
    names = said.name or ["127.0.0.1", "localhost"]
    return Gateway(
        services={name: addresses for name, addresses in given.items() if addresses != ["none"]},
        host=said.host,
        port=said.port,
        names=None if names == ["any"] else names,
        origins=said.origin,
        denied=said.deny,
        pages=None if said.no_pages else said.pages or find_pages(),
        pages_at=said.pages_at,
        descriptor_set=said.descriptor_set,
        stream_idle_s=said.stream_idle_s,
        retries=said.retries,
        secrets_at=said.secrets_at,
        admin_socket=said.admin_socket,
        tls=said.cert_file and ServerCertificate(said.cert_file, said.key_file, said.client_ca_file),
        upstream_tls=said.upstream_ca_file
        and UpstreamCertificate(
            said.upstream_ca_file, said.upstream_name, said.upstream_cert_file, said.upstream_key_file
        ),
    )


class _Plain(yaml.SafeDumper):
    """Without references: what occurs twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True


def _write(what: object, file: TextIO) -> None:
    yaml.dump(what, file, Dumper=_Plain, sort_keys=False, width=110)


def main(arguments: list[str] | None = None) -> int:
    """Write it; returns the exit code."""
    reader = parser()
    said = reader.parse_args(arguments)
    try:
        gateway = gateway_from(said)
        made = bootstrap(gateway)
    except GatewayError as error:
        reader.error(str(error))
    _write(made, sys.stdout)
    for name, content in secrets(gateway).items() if said.write_secrets else ():
        said.write_secrets.mkdir(parents=True, exist_ok=True)
        with (said.write_secrets / name).open("w", encoding="utf-8") as file:
            _write(content, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
