"""How commands name components of a model, and the form in which they want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli import _complete
from modelkeep.cli._naming import find_key, find_part
from modelkeep.cli._output import short
from modelkeep.cli._words import members
from modelkeep.taxonomy import SubModelType

if TYPE_CHECKING:
    from modelkeep.client import Client

Submodels = Annotated[
    list[str] | None,
    typer.Option(
        "--submodel",
        help="Component of a main model, such as vae; may be repeated.",
        autocompletion=_complete.submodels,
    ),
]
Precision = Annotated[str, typer.Option(help="auto (that of the files), float32, float16 or bfloat16.")]
Weights = Annotated[
    str,
    typer.Option(help="auto, dequantised, stored (quantised as in the files) or float8 (cast to 8 bits)."),
]
MemoryFormat = Annotated[str, typer.Option(help="contiguous or channels_last (torch's, for convolutions).")]
Device = Annotated[
    str,
    typer.Option(
        help="auto (where the loader puts it), cpu, cuda, or one accelerator such as cuda:1.",
        autocompletion=_complete.devices,
    ),
]
MaxVramBytes = Annotated[
    int, typer.Option(help="The most that it may take on accelerators; 0: no bound.", min=0)
]


def held_as(precision: int, weights: int) -> str:
    """What weights are in memory: their precision, or the form in place of one; "" of an object."""
    from modelkeep.loader.v1 import resident_pb2

    if weights == resident_pb2.WEIGHT_FORM_FLOAT8:
        return "float8"
    if weights == resident_pb2.WEIGHT_FORM_AS_STORED:
        return "stored"
    return short(resident_pb2.Precision.Name(precision), "PRECISION_") if precision else ""


def find_parts(client: Client, model: str, submodel: Sequence[str] | None) -> tuple[str, list[str]]:
    """The key of a model, and the components: those of ``--submodel``, or that in ``model/component``."""
    if named := members(SubModelType, submodel, "--submodel"):
        return find_key(client, model), named
    key, part = find_part(client, model, None)
    return key, [part] if part else []
