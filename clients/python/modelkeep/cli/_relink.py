"""``modelkeep relink``."""

from __future__ import annotations

from typing import Annotated

import typer

from modelkeep.cli._asking import DryRun
from modelkeep.cli._models import model_data
from modelkeep.cli._naming import Model, find_key
from modelkeep.cli._output import emit, say
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    verb(app, takes=DATA, examples=("modelkeep relink sketch ~/loras/sketch.safetensors",))(relink)


def relink(
    model: Model,
    path: Annotated[str, typer.Argument(help="The file or folder that holds the model now.")],
    dry_run: DryRun = False,
) -> None:
    """Say where a model is after its files were moved; what lies there must be the same."""
    with connect() as client:
        key = find_key(client, model)
        config = client.model_install.relink(key, path, validate_only=dry_run)
    if emit(lambda: model_data(config)):
        return
    done = "can be" if dry_run else "is"
    say(f"{visible(config.name)} ({key}) {done} linked to {visible(path)}.")
