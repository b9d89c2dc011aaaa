"""``modelkeep context``: suites by name, kept in a configuration file."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli import _complete, _options, _places, _watching
from modelkeep.cli._listing import Column, Listing
from modelkeep.cli._output import emit, print_facts, say
from modelkeep.cli._places import Place
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb

_group = group("Name suites, and choose which one commands talk to; without a command, list them.")

Name = Annotated[str, typer.Argument(help="Name of a context.", autocompletion=_complete.contexts)]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_group, name="context")
    lists(_group, context)
    verb(_group, "ls", takes=LIST, examples=("modelkeep context ls",))(list_contexts)
    verb(
        _group,
        takes=DATA,
        examples=(
            "modelkeep context add here --data-dir ./modelkeep-data",
            "modelkeep context add lab --address record=lab:50051,install=lab:50053 --token-file ~/lab.token",
            "modelkeep context add site --address record=site:50051 --ca-file ca.pem --cert-file me.pem "
            "--key-file me.key",
        ),
    )(add)
    verb(_group, examples=("modelkeep context use lab", "modelkeep context use -   # none"))(use)
    verb(_group, takes=DATA, examples=("modelkeep context show",))(show)
    verb(_group, "rm", examples=("modelkeep context rm lab",))(remove)


def context(ctx: typer.Context) -> None:
    """Name suites, and choose which one commands talk to; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_contexts()


def list_contexts() -> None:
    """List the contexts; a star marks the one in use."""

    def current() -> str:
        return _places.read().current

    listing: Listing[tuple[str, Place]] = Listing(
        "context",
        "contexts",
        (
            Column("NAME", lambda row: row[0], cut="end"),
            Column("IN USE", lambda row: "*" if row[0] == current() else "", drop=1),
            Column("DATA FOLDER", lambda row: row[1].data_dir or "", drop=2, cut="start"),
            Column("ADDRESSES", lambda row: _addresses(row[1]), drop=3, cut="end"),
            Column("TOKEN FILE", lambda row: row[1].token_file or "", wide=True),
            Column("AUTHORITIES", lambda row: row[1].ca_file or "", wide=True),
            Column("CERTIFICATE", lambda row: row[1].cert_file or "", wide=True),
        ),
        key=lambda row: row[0],
        name=lambda row: row[0],
        data=lambda row: {"name": row[0], "current": row[0] == current(), **asdict(row[1])},
        filters={"name": lambda row: (row[0],)},
    )
    empty = f"{_places.config_path()} has no contexts; `modelkeep context add NAME --data-dir DIR` makes one."
    _watching.poll(listing, lambda: sorted(_places.read().contexts.items()), empty=empty)


def add(name: Annotated[str, typer.Argument(help="Name of the new context.")]) -> None:
    """Keep under a name what --data-dir, --address and the options of files say."""
    options = _options.chosen()
    if name in ("", "-"):
        raise typer.BadParameter(f"{name!r} is no name for a context")
    if options.data_dir is None and not options.addresses:
        raise typer.BadParameter("say which suite it is: --data-dir DIR, or --address SERVICE=ADDRESS")
    made = Place(
        data_dir=_absolute(options.data_dir),
        addresses={str(name): to for name, to in options.addresses.items()},
        **{name: _absolute(getattr(options, name)) for name in _places.FILES},
    )
    config = _places.read()
    _places.write(replace(config, contexts={**config.contexts, name: made}))
    if not emit(lambda: {"name": name, **asdict(made)}):
        say(f"Kept {visible(name)}; `modelkeep context use {visible(name)}` makes it the one in use.")


def use(name: Name) -> None:
    """Make a context the one in use; "-" for none."""
    config = _places.read()
    if name != "-":
        _places.context_named(config, name)
    _places.write(replace(config, current="" if name == "-" else name))
    say("No context is in use." if name == "-" else f"{visible(name)} is in use.")


def show(
    name: Annotated[str | None, typer.Argument(help="Name; the one in use if none is given.")] = None,
) -> None:
    """Show a context."""
    config = _places.read()
    named = name or config.current
    if not named:
        say("No context is in use.")
        return
    found = _places.context_named(config, named)
    if not emit(lambda: {"name": named, "current": named == config.current, **asdict(found)}):
        print_facts(
            [
                ("name", named),
                ("data folder", found.data_dir),
                ("addresses", _addresses(found)),
                *((name.replace("_", " "), value) for name, value in found.files.items()),
            ]
        )


def remove(name: Name) -> None:
    """Forget a context; the suite is left alone."""
    config = _places.read()
    _places.context_named(config, name)
    left = {kept: place for kept, place in config.contexts.items() if kept != name}
    _places.write(replace(config, contexts=left, current="" if config.current == name else config.current))
    say(f"Forgot {visible(name)}.")


def _addresses(place: Place) -> str:
    return ", ".join(f"{service}={address}" for service, address in place.addresses.items())


def _absolute(path: Path | None) -> str | None:
    return os.path.abspath(path.expanduser()) if path is not None else None
