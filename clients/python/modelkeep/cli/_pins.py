"""``modelkeep cache pin`` and ``unpin``: what stays in the loader's memory whatever else needs room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from modelkeep.cli._naming import Model
from modelkeep.cli._output import as_json, counted, emit, say, size
from modelkeep.cli._parts import Device, MemoryFormat, Precision, Submodels, Weights, find_parts
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb

if TYPE_CHECKING:
    from modelkeep.dtypes import WeightForm


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
    submodel: Submodels = None,
    precision: Precision = "auto",
    weights: Weights = "auto",
    memory_format: MemoryFormat = "contiguous",
    device: Device = "auto",
    load: Annotated[
        bool, typer.Option(help="Bring it into memory as well; without, it is kept from when somebody does.")
    ] = True,
) -> None:
    """Keep a model in the loader's memory, whatever else needs room."""
    with connect() as client:
        key, parts = find_parts(client, model, submodel)
        pins = client.model_loader.pin(
            key,
            parts,
            precision=precision.lower(),
            weights=cast("WeightForm", weights.lower()),
            memory_format=memory_format.lower(),
            device=device.lower(),
            load=load,
        )
    if emit(lambda: {"pins": [as_json(one) for one in pins]}):
        return
    there = [one for one in pins if one.resident]
    later = "" if len(there) == len(pins) else "; the rest is kept once it is loaded"
    held = size(sum(one.size_bytes for one in there))
    say(f"Pinned {counted(len(pins), 'component')} of {visible(model)}: {held} in memory{later}.")


def unpin(
    model: Model,
    submodel: Submodels = None,
    precision: Annotated[
        str,
        typer.Option(help="auto (whichever it was pinned in), float32, float16 or bfloat16."),
    ] = "auto",
    weights: Annotated[
        str,
        typer.Option(help="auto (whichever it was pinned in), dequantised, stored or float8."),
    ] = "auto",
    memory_format: Annotated[
        str | None,
        typer.Option(
            help="contiguous or channels_last; without it, whichever it was pinned in.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto (wherever it was pinned), cpu, or as cuda:1.")] = "auto",
) -> None:
    """Let a pinned model, or `model/component`, be dropped again when room is needed."""
    with connect() as client:
        key, parts = find_parts(client, model, submodel)
        taken = client.model_loader.unpin(
            key,
            parts,
            precision=precision.lower(),
            weights=cast("WeightForm", weights.lower()),
            memory_format=memory_format and memory_format.lower(),
            device=device.lower(),
        )
    if not emit(lambda: {"components": [as_json(one) for one in taken]}):
        say(
            f"Took {counted(len(taken), 'pin')} off {visible(model)}."
            if taken
            else f"Nothing of {visible(model)} was pinned."
        )
