"""``modelkeep cover``: the pictures that stand for models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from modelkeep.cli._asking import Yes, agreed
from modelkeep.cli._models import model_data
from modelkeep.cli._naming import Model, find_key, find_model
from modelkeep.cli._output import emit, say, size
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, Group, verb

_covers = typer.Typer(
    help="Set, fetch and remove the pictures that stand for models.", cls=Group, no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_covers, name="cover")
    verb(_covers, "set", takes=DATA, examples=("modelkeep cover set sketch ./sketch.png",))(set_cover)
    verb(
        _covers,
        "get",
        examples=("modelkeep cover get sketch sketch.png", "modelkeep cover get sketch > sketch.png"),
    )(get_cover)
    verb(_covers, "rm", takes=DATA, examples=("modelkeep cover rm sketch",))(remove_cover)


def set_cover(
    model: Model,
    file: Annotated[
        Path,
        typer.Argument(
            help="A PNG, JPEG, WebP or GIF of at most 1 MiB.", exists=True, dir_okay=False, readable=True
        ),
    ],
) -> None:
    """Make a picture the one that stands for a model."""
    with connect() as client:
        config = client.model_record_store.set_cover_image(find_key(client, model), file)
    picture = config.cover_image
    if not emit(lambda: model_data(config)) and picture is not None:
        say(f"{visible(config.name)}: {picture.media_type}, {size(picture.size_bytes)}")


def get_cover(
    model: Model,
    file: Annotated[
        str, typer.Argument(help="Where to write it; -, as in a pipe the default: to standard output.")
    ] = "",
    yes: Yes = False,
) -> None:
    """Write the picture that stands for a model to a file, or into a pipe."""
    if not file and sys.stdout.isatty():
        raise typer.BadParameter("a terminal shows no picture: name a file for it")
    path = Path(file) if file not in ("", "-") else None
    if path is not None and path.exists():
        agreed(f"Replace {visible(str(path))}?", [], yes=yes)
    with connect() as client:
        image = client.model_record_store.get_cover_image(find_key(client, model))
    if path is None:
        sys.stdout.buffer.write(image)
    else:
        try:
            path.write_bytes(image)
        except OSError as error:
            raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from None
        say(f"{visible(str(path))}: {size(len(image))}")


def remove_cover(model: Model) -> None:
    """Take the picture away that stands for a model."""
    with connect() as client:
        config = client.model_record_store.delete_cover_image(find_model(client, model).key)
    if not emit(lambda: model_data(config)):
        say(f"{visible(config.name)} has no picture now.")
