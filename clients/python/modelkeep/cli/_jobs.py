"""What the verbs of both kinds of jobs share: how a job is shown, and which are forgotten."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from modelkeep.cli._follow import waits
from modelkeep.cli._output import counted, emit, say, when
from modelkeep.cli._terminal import Look, visible
from modelkeep.cli._words import did_you_mean, folded, words

Ended = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="STATE,...", help="Only those that ended so: completed, error, cancelled."
    ),
]
Failed = Annotated[bool, typer.Option("--failed", help="As --state error.")]
OlderThan = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Only those that ended so long ago: 90s, 15min, 12h; a number is days."),
]

_LOOKS: Final[Mapping[str, Look]] = {"error": "red", "paused": "yellow", "completed": "green"}
_STATES: Final = ("completed", "error", "cancelled")
_AGE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|m|min|h|d|w|)")
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "": 86_400, "w": 604_800}


def ended_states(given: Sequence[str] | None, *, failed: bool) -> list[str]:
    """The final states that a person names.

    Raises:
        typer.BadParameter: One is none.
    """
    found = {folded(word) for word in words(given)} | ({"error"} if failed else set())
    for word in found - set(_STATES):
        raise typer.BadParameter(
            f"{visible(word)!r} is not one of {', '.join(_STATES)}.{did_you_mean(word, _STATES)}",
            param_hint="--state",
        )
    return sorted(found)


def age_s(given: str | None) -> float:
    """The seconds of an age; 0 if none is given.

    Raises:
        typer.BadParameter: It is none.
    """
    found = _AGE.fullmatch((given or "0").strip().lower())
    if found is None:
        raise typer.BadParameter(
            f"{visible(given)!r} is no length of time, such as 90s, 15min, 12h or 7d.",
            param_hint="--older-than",
        )
    return float(found[1]) * _UNITS[found[2]]


def look(job: Any) -> Look | None:
    """How a job's state is written."""
    return _LOOKS.get(job.status.value)


def common_facts(job: Any) -> list[tuple[str, object]]:
    """What there is to say about a job of either kind: its tries and times."""
    why, until = waits(job.message)
    return [
        ("labels", ", ".join(f"{name}={value}" for name, value in job.message.labels.items())),
        ("attempt", job.message.attempt),
        ("waits for", why),
        ("next try", when(until)),
        ("made", when(job.message.create_time.ToNanoseconds() / 1e9)),
        ("started", when(job.job_started)),
        ("ended", when(job.job_ended)),
    ]


def tell_forgotten(count: int, noun: str) -> None:
    """Say how many jobs were forgotten."""
    if not emit(lambda: {"pruned_count": str(count)}):
        say(f"Forgot {counted(count, noun)}.")
