"""``modelkeep up``, ``token`` and ``demo``: a suite, how to call it, and a tour of what it can do."""

from __future__ import annotations

import importlib.util
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli import _places, _terminal
from modelkeep.cli._options import chosen
from modelkeep.cli._output import say
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import folder_named, verb
from modelkeep.defaults import DASHBOARD_PORT, DEFAULT_PORTS, EXIT_FAILED, SERVICES, find_data_dir


class Anonymous(StrEnum):
    """What callers without a token may do."""

    VIEWER = "viewer"
    NONE = "none"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        examples=(
            "modelkeep up",
            "modelkeep up --data-dir /srv/modelkeep --models-dir /data/models --port 51000",
            "modelkeep up --certs ./certs --host 0.0.0.0",
        ),
    )(up)
    verb(app, examples=('curl -H "authorization: Bearer $(modelkeep token)" …',))(token)
    verb(app, examples=("modelkeep demo", "modelkeep demo --build tiny-sd"))(demo)


def up(
    models_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of installed models, made if it is not there; in the data folder by default.",
            envvar="MODELKEEP_MODELS_DIR",
            parser=folder_named,
        ),
    ] = None,
    model_config_db: Annotated[
        Path | None,
        typer.Option(
            help="File of the records: SQLite (.db), or YAML (.yaml) that people may edit; SQLite in the "
            "data folder by default.",
            dir_okay=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="First of four consecutive ports; 0 takes free ones.", min=0, max=65532)
    ] = DEFAULT_PORTS["record"],
    anonymous: Annotated[
        Anonymous, typer.Option(help="What callers over TCP without a token may do: look, or nothing.")
    ] = Anonymous.VIEWER,
    certs: Annotated[
        Path | None,
        typer.Option(
            help="Folder made by `modelkeep certs dev`: TCP is TLS then, and callers show certificates.",
            file_okay=False,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="No token over TCP: every user of this machine, with another --host of a network, may "
            "then install, delete and lend models. Local models are taken from the import roots only.",
        ),
    ] = False,
    loader: Annotated[
        bool,
        typer.Option("--loader/--no-loader", help="Start the loader too; it needs torch, the others do not."),
    ] = True,
    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard/--no-dashboard",
            help="Serve the dashboard and HTTP with JSON on 127.0.0.1, by an Envoy; Linux only.",
        ),
    ] = True,
    dashboard_port: Annotated[
        int, typer.Option(help="Port of the dashboard; 0 takes a free one.", min=0, max=65535)
    ] = DASHBOARD_PORT,
) -> None:
    """Start all four services, or those that need no torch where there is none; Ctrl-C stops them.

    Their UNIX sockets are for the user who starts them; he may do everything. Over TCP a call needs a token
    to do more than look: `modelkeep token` prints the owner's.
    """
    from modelkeep.supervisor import ports_from
    from modelkeep.supervisor import up as run

    _starts_its_own("up")
    if insecure and certs is not None:
        raise typer.BadParameter("--insecure lets everybody in, and --certs only who has a certificate")
    folder = find_data_dir(chosen().data_dir)
    if loader and importlib.util.find_spec("torch") is None:
        loader = False
        say("Without the loader: torch is not installed here (`make run TORCH=cpu`, or modelkeep[loader]).")
    # It names the folder of this command line; the services get theirs by flag.
    os.environ.pop("MODELKEEP_DATA_DIR", None)
    raise typer.Exit(
        run(
            folder,
            models_dir=models_dir,
            model_config_db=model_config_db,
            host=host,
            ports=ports_from(port),
            services=[service for service in SERVICES if loader or service != "loader"],
            insecure=insecure,
            anonymous=anonymous.value,
            dashboard_port=dashboard_port if dashboard else None,
            certs=certs,
            say=say,
        )
    )


def _starts_its_own(verb: str) -> None:
    options = chosen()
    files = [name for name in _places.FILES if getattr(options, name) is not None]
    if options.addresses or options.context or files:
        named = "".join(f", --{name.replace('_', '-')}" for name in files or ["token_file"])
        raise typer.BadParameter(
            f"`modelkeep {verb}` starts a suite and calls no other: leave out --address, --context{named}"
        )


def token() -> None:
    """Print the token of the running suite's owner, as for curl: keep it to yourself."""
    from modelkeep.client import find_token
    from modelkeep.rpc import TokenFile

    place = _places.place()
    named = place.token_file
    print(TokenFile(Path(named))() if named else find_token(place.data_dir))


def demo(
    out: Annotated[Path, typer.Option(help="Where the decoded picture goes.")] = Path("modelkeep-demo.png"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep model, data and logs, and say where.")] = False,
    build: Annotated[
        Path | None,
        typer.Option(help="Only build the small model into this new folder.", file_okay=False),
    ] = None,
) -> None:
    """Show the main job on a small model: one copy of the weights, two workers, and two kills.

    Starts a suite of its own, builds a small Stable Diffusion pipeline with random weights, installs it,
    and decodes with its VAE in two processes at once. Checks what it shows; exits 1 if a check fails.
    """
    _starts_its_own("demo")
    from modelkeep.demo import DemoFailed, build_pipeline, run_demo

    if build is None:
        raise typer.Exit(run_demo(out, keep, say))
    if build.exists():
        raise typer.BadParameter(f"{build} exists already; name a new folder")
    try:
        build_pipeline(build, say)
    except DemoFailed as error:  # of this command, so no service's log says more
        _terminal.complain(f"Error: {visible(error.message)}", "red")
        raise typer.Exit(EXIT_FAILED) from None
