"""``modelkeep cache pin`` and ``unpin``: what stays in the loader's memory whatever else needs room."""

from __future__ import annotations

from typing import Annotated

import typer

from modelkeep.cli import _complete
from modelkeep.cli._naming import Model, find_key, find_part
from modelkeep.cli._output import as_json, counted, emit, say, size
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb
from modelkeep.cli._words import members
from modelkeep.taxonomy import SubModelType

_Submodels = Annotated[
    list[str] | None,
    typer.Option(
        "--submodel",
        help="Component of a main model, such as vae; may be repeated.",
        autocompletion=_complete.submodels,
    ),
]
_Precision = Annotated[str, typer.Option(help="auto (that of the files), float32, float16 or bfloat16.")]


def add_to(group: typer.Typer) -> None:
    """Add the commands."""
    verb(
        group,
        takes=DATA,
        examples=("modelkeep cache pin tiny-sd/vae", "modelkeep cache pin tiny-sd/vae --no-load"),
    )(pin)
    verb(group, takes=DATA, examples=("modelkeep cache unpin tiny-sd/vae", "modelkeep cache unpin tiny-sd"))(
        unpin
    )


def pin(
    model: Model,
    submodel: _Submodels = None,
    precision: _Precision = "auto",
    load: Annotated[
        bool, typer.Option(help="Bring it into memory as well; without, it is kept from when somebody does.")
    ] = True,
) -> None:
    """Keep a model in the loader's memory, whatever else needs room."""
    named = members(SubModelType, submodel, "--submodel")
    with connect() as client:
        key, part = find_part(client, model, None) if not named else (find_key(client, model), None)
        parts = named or ([part] if part else [])
        pins = client.model_loader.pin(key, parts, precision=precision.lower(), load=load)
    if emit(lambda: {"pins": [as_json(one) for one in pins]}):
        return
    there = [one for one in pins if one.resident]
    later = "" if len(there) == len(pins) else "; the rest is kept once it is loaded"
    held = size(sum(one.size_bytes for one in there))
    say(f"Pinned {counted(len(pins), 'component')} of {visible(model)}: {held} in memory{later}.")


def unpin(
    model: Model,
    submodel: _Submodels = None,
    precision: Annotated[
        str,
        typer.Option(help="auto (whichever it was pinned in), float32, float16 or bfloat16."),
    ] = "auto",
) -> None:
    """Let a pinned model, or `model/component`, be dropped again when room is needed."""
    named = members(SubModelType, submodel, "--submodel")
    with connect() as client:
        key, part = find_part(client, model, None) if not named else (find_key(client, model), None)
        parts = named or ([part] if part else [])
        taken = client.model_loader.unpin(key, parts, precision=precision.lower())
    if not emit(lambda: {"components": [as_json(one) for one in taken]}):
        say(
            f"Took {counted(len(taken), 'pin')} off {visible(model)}."
            if taken
            else f"Nothing of {visible(model)} was pinned."
        )
