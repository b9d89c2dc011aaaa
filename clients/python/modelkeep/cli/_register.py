"""``modelkeep register``."""

from __future__ import annotations

from typing import Annotated

import typer

from modelkeep.cli._fields import overrides
from modelkeep.cli._output import emit, say
from modelkeep.cli._places import connect
from modelkeep.cli._verbs import DATA, verb


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep register ./tiny-sd",
            "modelkeep register ~/loras/ink.safetensors --copy --name ink",
        ),
    )(register)


def register(
    path: Annotated[str, typer.Argument(help="A safetensors file or a diffusers folder.")],
    copy: Annotated[
        bool, typer.Option("--copy/--inplace", help="Copy it into models_dir, or leave it where it is.")
    ] = False,
    move: Annotated[
        bool, typer.Option("--move", help="Move it into models_dir; what lies there goes.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the record, over what is found."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
) -> None:
    """Register a local model and write its key: `install` for scripts, without a job to follow."""
    if copy and move:
        raise typer.BadParameter("--copy leaves the model where it lies, --move does not: give one of them.")
    config = overrides(set_) | ({"name": name} if name else {})
    with connect() as client:
        if copy or move:
            key = client.model_install.install_path(path, config or None, move=move)
        else:
            key = client.model_install.register_path(path, config or None)
    if not emit(lambda: {"key": key}):
        say(key)
