"""Options that say which models a command is about: by type, base, format, tag, label and more."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelkeep.cli import _complete
from modelkeep.cli._fields import labels
from modelkeep.cli._words import did_you_mean, folded, members, words

Types = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TYPE,...", help="Only these types, such as main, vae, lora.", autocompletion=_complete.types
    ),
]
Bases = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BASE,...",
        help="Only models for these bases, such as sd-1.",
        autocompletion=_complete.bases,
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FORMAT,...",
        help="Only these formats, such as diffusers.",
        autocompletion=_complete.formats,
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TAG,...", help="Only models with all of these tags.", autocompletion=_complete.tags
    ),
]
Labels = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only models with all of these labels.")
]
RelatedTo = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Only models that are related to this one.", autocompletion=_complete.models
    ),
]
Missing = Annotated[
    bool | None,
    typer.Option("--missing/--present", help="Only models whose files are gone, or are there."),
]


def filters(
    *,
    type: list[str] | None,
    base: list[str] | None,
    format: list[str] | None,
    tag: list[str] | None,
    label: list[str] | None,
) -> dict[str, Any]:
    """What was said, as arguments of the client's methods.

    Raises:
        typer.BadParameter: There is no such type or format, or a label is none.
    """
    from modelkeep.taxonomy import ModelFormat, ModelType

    return {
        "type": members(ModelType, type, "--type"),
        "base": [folded(word).replace("_", "-") for word in words(base)],
        "format": members(ModelFormat, format, "--format"),
        "tags": words(tag),
        "labels": labels(label),
    }


def near(wanted: dict[str, Any]) -> str:
    """What may have been meant, where a base is none of those that are known; else ""."""
    from modelkeep.taxonomy import BaseModelType

    known = [member.value for member in BaseModelType]
    return "".join(did_you_mean(word, known) for word in wanted["base"] if word not in known)
