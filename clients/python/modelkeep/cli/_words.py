"""Words that a person types: lists of them, in any case, and what he may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, TypeVar

import typer

from modelkeep.cli._terminal import visible

E = TypeVar("E", bound=StrEnum)

#: How many of many a sentence names.
SHOWN: Final = 5

#: What the names of values begin with on the wire.
_PREFIX: Final = re.compile(
    r"^(model_type|model_format|sub_model_type|install_state|install_stage|download_state|download_stage"
    r"|resident_state|lease_state|precision|tier)_(?=.)"
)


def words(given: Iterable[str] | None) -> list[str]:
    """The words of options that may be repeated and may each hold several, with commas between them."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


def few(told: Sequence[str]) -> str:
    """The first of some, with commas between them, and how many more there are."""
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return ", ".join(told[:SHOWN]) + more


def members(enum: type[E], given: Iterable[str] | None, option: str) -> list[str]:
    """The values of an enum that a person means: in any case, by their names on the wire too.

    Raises:
        typer.BadParameter: There is none; the message names one that is near, and all that there are.
    """
    values = [member.value for member in enum]
    return [_member(values, word, option) for word in words(given)]


def folded(word: str) -> str:
    """A word as it is compared: "MODEL_TYPE_CONTROL_LORA", "Control-LoRA" → "control_lora"."""
    text = word.strip().casefold().replace("-", "_").replace(" ", "_")
    return _PREFIX.sub("", text)


def _member(values: Sequence[str], word: str, option: str) -> str:
    for value in values:
        if folded(word) == folded(value):
            return value
    near = did_you_mean(word, values)
    raise typer.BadParameter(f"{visible(word)!r} is not one of {', '.join(values)}.{near}", param_hint=option)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence, after a blank, that names what is near; "" if nothing is."""
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(word.casefold(), list(by_folded), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(by_folded[one] for one in near)}?" if near else ""
