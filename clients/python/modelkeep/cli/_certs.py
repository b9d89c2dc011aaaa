"""``modelkeep certs``: certificates of a private authority, to try TLS with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli._output import emit, say
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, folder_named, group, verb
from modelkeep.defaults import DEFAULT_PORTS

_group = group("Make certificates to try TLS with.")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_group, name="certs", no_args_is_help=True)
    _group.callback()(certs)
    verb(
        _group,
        takes=DATA,
        examples=(
            "modelkeep certs dev",
            "modelkeep certs dev ./certs --host models.example.org --host 192.0.2.7 --days 30",
        ),
    )(dev)


def certs() -> None:
    """Make certificates to try TLS with."""


def dev(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="New or empty folder for them.", parser=folder_named)
    ] = Path("modelkeep-certs"),
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another DNS name or address of the services. May be repeated."),
    ] = None,
    days: Annotated[int, typer.Option(help="How long they last.", min=1, max=3650)] = 365,
) -> None:
    """Make a private authority, and certificates of the four services, a gateway and a client.

    The services' and the gateway's are for localhost, 127.0.0.1, ::1, the service's own name and every
    --host. Nothing is replaced: for new ones name another folder, or remove that one. Whoever has the folder
    can call as anybody: they are for one machine or a trial, not for a network of others.
    """
    from modelkeep.devcerts import make_certificates

    folder = folder.expanduser().absolute()
    try:
        made = make_certificates(folder, host or (), days)
    except FileExistsError as error:
        raise typer.BadParameter(f"{error}; name another one, or remove it") from None
    except ValueError as error:
        raise typer.BadParameter(f"a --host is no DNS name and no address: {error}") from None
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be written: {error.strerror}") from None
    if not emit(lambda: {"folder": str(folder), "files": [path.name for path in made], "days": days}):
        shown = shlex.quote(visible(str(folder)))
        say(
            f"{len(made)} files in {visible(str(folder))}, for {days} days. A service alone:\n"
            f"  python -P -m modelkeep_record --tls-cert-file {shown}/record.pem "
            f"--tls-key-file {shown}/record.key --tls-client-ca-file {shown}/ca.pem "
            f"--tls-callers-file {shown}/callers.json\n"
            "Who calls it:\n"
            f"  grpcurl -cacert {shown}/ca.pem -cert {shown}/client.pem -key {shown}/client.key "
            f"localhost:{DEFAULT_PORTS['record']} modelkeep.record.v1.RecordService/ListModels"
        )
