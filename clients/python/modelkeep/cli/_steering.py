"""``modelkeep downloads pause|resume|cancel|retry|fail``: what is done to a download, or to all of them."""

from __future__ import annotations

from typing import Annotated

import typer

from modelkeep.cli import _complete
from modelkeep.cli._asking import Yes, agreed
from modelkeep.cli._downloads import (
    Detach,
    JobId,
    Queue,
    Token,
    downloads_group,
    follow_to_end,
    queue_of,
    tell,
)
from modelkeep.cli._fields import labels
from modelkeep.cli._output import LAST_ID, counted, emit, say
from modelkeep.cli._verbs import DATA, verb

OneJob = Annotated[
    int | None,
    typer.Argument(help="Number of the download.", min=1, max=LAST_ID, autocompletion=_complete.downloads),
]
All = Annotated[bool, typer.Option("--all", help="All downloads that have not ended.")]
Labels = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="With --all: only those with this label.")
]


def add_to_downloads() -> None:
    """Add the commands."""
    verb(
        downloads_group,
        "pause",
        takes=DATA,
        examples=("modelkeep downloads pause 3", "modelkeep downloads pause --all --queue nightly"),
    )(pause_download)
    verb(
        downloads_group,
        "resume",
        takes=DATA,
        examples=(
            "modelkeep downloads resume 3",
            "MODELKEEP_ACCESS_TOKEN=… modelkeep downloads resume 3",
            "modelkeep downloads resume 3 --url https://example.com/vae.safetensors?signature=new",
            "modelkeep downloads resume --all",
        ),
    )(resume_download)
    verb(
        downloads_group,
        "cancel",
        takes=DATA,
        examples=("modelkeep downloads cancel 3", "modelkeep downloads cancel --all --label run=7 -y"),
    )(cancel_download)
    verb(
        downloads_group,
        "retry",
        takes=DATA,
        examples=("modelkeep downloads retry 3", "MODELKEEP_ACCESS_TOKEN=… modelkeep downloads retry 3"),
    )(retry_download)
    verb(
        downloads_group,
        "fail",
        takes=DATA,
        examples=("modelkeep downloads fail 3 --message 'not the model that we want'",),
    )(fail_download)


def pause_download(id: OneJob = None, all: All = False, queue: Queue = None, label: Labels = None) -> None:
    """Pause a download, or all of them; their bytes stay."""
    one = _meant(id, all=all, queue=queue, label=label)
    with queue_of(queue) as jobs:
        if one:
            tell(jobs.pause_job(one))
        else:
            _tell_count("Paused", "paused_count", jobs.pause_all_jobs(labels(label)))


def resume_download(
    id: OneJob = None,
    all: All = False,
    queue: Queue = None,
    label: Labels = None,
    token: Token = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="New address of the same file, where the old one has run out."),
    ] = None,
) -> None:
    """Let an idle or paused download, or all of them, go on where they stopped."""
    one = _meant(id, all=all, queue=queue, label=label)
    if not one and url:
        raise typer.BadParameter("an address is of one download: name it", param_hint="--url")
    with queue_of(queue) as jobs:
        if one:
            tell(jobs.start_job(one, token, url))
        else:
            _tell_count("Resumed", "started_count", jobs.start_all_jobs(labels(label)))


def cancel_download(
    id: OneJob = None,
    all: All = False,
    queue: Queue = None,
    label: Labels = None,
    yes: Yes = False,
) -> None:
    """Cancel a download, or all that have not ended, and remove their temporary files."""
    one = _meant(id, all=all, queue=queue, label=label)
    with queue_of(queue) as jobs:
        if one:
            tell(jobs.cancel_job(one))
            return
        going = [job for job in jobs.list_jobs(labels(label)) if not job.ended]
        if going:
            agreed(f"Cancel {counted(len(going), 'download')}?", [str(job.source) for job in going], yes=yes)
        _tell_count("Cancelled", "cancelled_count", jobs.cancel_all_jobs(labels(label)))


def retry_download(
    id: JobId,
    token: Token = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Its address with the secrets, or a new one, where it has run out."),
    ] = None,
    detach: Detach = False,
) -> None:
    """Make a download that failed or was cancelled anew, from the bytes that it kept, and follow it.

    Ctrl-C leaves it running.
    """
    with queue_of(None) as jobs:
        made = jobs.retry_job(id, token, url)
        if detach:
            tell(made)
        else:
            follow_to_end(jobs, made)


def fail_download(
    id: JobId,
    message: Annotated[str, typer.Option("--message", "-m", help="Why; it becomes the job's error.")] = "",
) -> None:
    """Put a download that has not ended into state error."""
    with queue_of(None) as jobs:
        tell(jobs.fail_job(id, message))


def _meant(id: int | None, *, all: bool, queue: str | None, label: list[str] | None) -> int:
    """The number of the one download that is meant; 0 for all.

    Raises:
        typer.BadParameter: Neither or both are said.
    """
    if (id is None) != all:
        raise typer.BadParameter("name a download, or say --all", param_hint="ID")
    if id is not None and (queue is not None or label):
        raise typer.BadParameter("--queue and --label are for --all", param_hint="ID")
    return id or 0


def _tell_count(what: str, name: str, count: int) -> None:
    if not emit(lambda: {name: str(count)}):
        say(f"{what} {counted(count, 'download')}.")
