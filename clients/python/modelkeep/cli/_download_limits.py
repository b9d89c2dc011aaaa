"""``modelkeep downloads limit`` and ``priority``: how many at once, how fast, how, and which first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelkeep.cli import _complete
from modelkeep.cli._output import LAST_ID, as_json, emit, print_facts, say, size
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb

if TYPE_CHECKING:
    from modelkeep.client import DownloadLimits

_RATE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b?(?:/s)?")
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

Rate = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="Most bytes a second: 500k, 20M, 1.5MiB; 0 or none: no limit."),
]
Priority = Annotated[
    int, typer.Argument(help="Lower runs first; 10 by default.", min=-(1 << 31), max=(1 << 31) - 1)
]


def add_to(group: typer.Typer) -> None:
    """Add the commands."""
    verb(
        group,
        "limit",
        takes=DATA,
        examples=(
            "modelkeep downloads limit  # show the limits",
            "modelkeep downloads limit --rate 20M --parallel 3",
            "modelkeep downloads limit --connections-per-file 4 --connections 16",
            "modelkeep downloads limit --queue nightly --parallel 1",
            "modelkeep downloads limit 3 --rate 500k",
        ),
    )(limit_downloads)
    verb(
        group,
        "priority",
        takes=DATA,
        examples=("modelkeep downloads priority 3 1", "modelkeep downloads priority 3 -5"),
        negative=True,
    )(give_priority)


def limit_downloads(
    id: Annotated[
        int | None,
        typer.Argument(
            help="Number of a download to limit; none: all together.",
            min=1,
            max=LAST_ID,
            autocompletion=_complete.downloads,
        ),
    ] = None,
    rate: Rate = None,
    parallel: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most downloads at once; 0: as configured.", min=0, max=100),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help='Limit the downloads of this queue; "" is the default one.')
    ] = None,
    connections_per_file: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most connections for one file; 0: as configured.", min=0, max=64),
    ] = None,
    connections_per_host: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most connections to one host; 0: as configured.", min=0, max=256),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most connections in all; 0: as configured.", min=0, max=1024),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget first all limits that were set.")] = False,
) -> None:
    """Show or set how many downloads run at once, how fast, and over how many connections.

    What is set counts at once, and stays.
    """
    bytes_per_second = None if rate is None else rate_of(rate)
    numbers = {
        "max_bytes_per_second": bytes_per_second,
        "max_connections_per_file": connections_per_file,
        "max_connections_per_host": connections_per_host,
        "max_connections": connections,
    }
    given = {name: most for name, most in numbers.items() if most is not None}
    if id is not None:
        if parallel is not None or queue is not None or reset or given.keys() - {"max_bytes_per_second"}:
            raise typer.BadParameter("a single download has a rate alone", param_hint="ID")
        _limit_one(id, bytes_per_second)
        return
    if queue is not None and (parallel is None or given):
        raise typer.BadParameter("a queue takes --parallel, and nothing else", param_hint="--queue")
    with connect() as client:
        jobs = client.create_download_queue("", quiet=True)
        if not given and parallel is None and not reset:
            _show(jobs.get_limits())
            return
        queues = {} if queue is None or parallel is None else {queue: parallel}
        limits = jobs.set_limits(
            max_parallel_downloads=None if queues else parallel, queues=queues, reset=reset, **given
        )
    _show(limits)


def give_priority(
    id: Annotated[
        int,
        typer.Argument(
            help="Number of the download.", min=1, max=LAST_ID, autocompletion=_complete.downloads
        ),
    ],
    priority: Priority,
) -> None:
    """Let a download run sooner or later; one that is better than one that runs takes its place at once."""
    with connect() as client:
        job = client.create_download_queue(None, quiet=True).update_job(id, priority=priority)
    if not emit(lambda: as_json(job.message)):
        say(f"Download {job.id} has priority {job.priority}.")


def rate_of(given: str) -> int:
    """Bytes a second, as a person writes them; 0 for no limit.

    Raises:
        typer.BadParameter: It is no rate.
    """
    text = given.strip().lower()
    found = _RATE.fullmatch("0" if text == "none" else text)
    if found is None or (found[3] and not found[2]):
        raise typer.BadParameter(
            f"{visible(given)!r} is no rate, such as 500k, 20M or 1.5MiB; 0 or none means no limit",
            param_hint="--rate",
        )
    rate = float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]]
    if 0 < rate < 1:  # 0 would be no limit at all
        raise typer.BadParameter(f"{visible(given)!r} is less than a byte a second", param_hint="--rate")
    return int(rate)


def _limit_one(id: int, bytes_per_second: int | None) -> None:
    if bytes_per_second is None:
        raise typer.BadParameter("say which rate", param_hint="--rate")
    with connect() as client:
        jobs = client.create_download_queue(None, quiet=True)
        job = jobs.update_job(id, max_bytes_per_second=bytes_per_second)
    if not emit(lambda: as_json(job.message)):
        say(f"Download {job.id} has {_rate(job.max_bytes_per_second)}.")


def _show(limits: DownloadLimits) -> None:
    if emit(lambda: as_json(limits.message)):
        return
    print_facts(
        [
            ("at once", limits.max_parallel_downloads),
            ("rate", _rate(limits.max_bytes_per_second)),
            ("connections", _connections(limits)),
            *((f"queue {queue or '(default)'}", f"{most} at once") for queue, most in limits.queues.items()),
        ]
    )


def _connections(limits: DownloadLimits) -> str:
    per_file, per_host = limits.max_connections_per_file, limits.max_connections_per_host
    return f"at most {per_file} for a file, {per_host} to a host, {limits.max_connections} in all"


def _rate(bytes_per_second: int) -> str:
    return f"at most {size(bytes_per_second)} a second" if bytes_per_second else "no limit"
