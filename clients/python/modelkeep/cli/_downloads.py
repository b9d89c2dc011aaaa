"""``modelkeep downloads``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli._errors import complain, guarded
from modelkeep.cli._follow import follow, follow_all
from modelkeep.cli._output import (
    LAST_ID,
    Json,
    as_json,
    print_json,
    print_pruned,
    print_table,
    progress,
    short,
    visible,
    when,
)
from modelkeep.defaults import EXIT_FAILED, EXIT_OK
from modelkeep.exceptions import ModelkeepError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelkeep.client import DownloadJobBase, DownloadQueue

_group = typer.Typer(help="Look at downloads and control them.", invoke_without_command=True)

JobId = Annotated[int, typer.Argument(help="Number of the download.", min=1, max=LAST_ID)]
Queue = Annotated[str | None, typer.Option(help='Only this queue; "" is the default one.')]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_group, name="downloads")


@contextlib.contextmanager
def _queue(name: str | None) -> Iterator[DownloadQueue]:
    """A queue, or all of them as one."""
    from modelkeep.client import Client

    with Client() as client:
        yield client.create_download_queue(name, quiet=True)


@_group.callback()
@guarded
def downloads(context: typer.Context) -> None:
    """Look at downloads and control them; without a command, list them."""
    if context.invoked_subcommand is None:
        list_downloads()


@_group.command("list")
@guarded
def list_downloads(queue: Queue = None, json: Json = False) -> None:
    """List the downloads of all queues."""
    with _queue(queue) as jobs_of:
        jobs = jobs_of.list_jobs()
    if json:
        print_json({"downloads": [as_json(job.message) for job in jobs]})
        return
    print_table(
        ("ID", "STATE", "PROGRESS", "PRIORITY", "STARTED", "SOURCE"),
        [(j.id, _state(j), _bytes(j), j.priority, when(j.job_started), j.source) for j in jobs],
        empty=f"There are no downloads in queue {queue!r}." if queue else "There are no downloads.",
    )


@_group.command("watch")
@guarded
def watch_downloads(
    id: Annotated[
        int | None, typer.Argument(help="Number of a download; none: all.", min=1, max=LAST_ID)
    ] = None,
    queue: Queue = None,
    json: Json = False,
) -> None:
    """Follow a download until it ends, or all of them until Ctrl-C."""
    with _queue(queue) as jobs:
        if id is None:
            follow_all(jobs.watch(), _state, as_lines=json)
            return
        job = follow(jobs.watch([id]), id, "download", _state, lambda job: job.ended, as_lines=json)
    if job.error is not None and not json and isinstance(job.error, ModelkeepError):
        complain(job.error, prefix=f"Download {id} is {job.status.value}")
    elif not json:
        typer.echo(f"Download {id} is {job.status.value}: {visible(job.path or '')}")
    raise typer.Exit(EXIT_OK if job.status == "completed" else EXIT_FAILED)


@_group.command("pause")
@guarded
def pause_download(id: JobId, json: Json = False) -> None:
    """Pause a download; its bytes stay."""
    with _queue(None) as jobs:
        _tell(jobs.pause_job(id), json)


@_group.command("resume")
@guarded
def resume_download(
    id: JobId,
    token: Annotated[
        str | None,
        typer.Option(help="A token anew.", envvar="MODELKEEP_ACCESS_TOKEN", show_envvar=True),
    ] = None,
    json: Json = False,
) -> None:
    """Let an idle or paused download go on where it stopped."""
    with _queue(None) as jobs:
        _tell(jobs.start_job(id, token), json)


@_group.command("cancel")
@guarded
def cancel_download(id: JobId, json: Json = False) -> None:
    """Cancel a download and remove its temporary files."""
    with _queue(None) as jobs:
        _tell(jobs.cancel_job(id), json)


@_group.command("prune")
@guarded
def prune_downloads(queue: Queue = None, json: Json = False) -> None:
    """Forget the downloads that have ended; files stay."""
    with _queue(queue) as jobs:
        count = jobs.prune_jobs()
    print_pruned(count, "download", json)


def _state(job: DownloadJobBase) -> str:
    from modelkeep.download.v1 import download_pb2

    try:
        stage = short(download_pb2.DownloadStage.Name(job.message.stage), "DOWNLOAD_STAGE_")
    except ValueError:
        stage = ""
    return f"{job.status.value} ({stage})" if stage else job.status.value


def _bytes(job: Any) -> str:
    return progress(job) if hasattr(job, "total_bytes") else ""


def _tell(job: DownloadJobBase, json: bool) -> None:
    if json:
        print_json(as_json(job.message))
    elif job.ended or job.status != "running":
        typer.echo(f"Download {job.id} is {job.status.value}.")
    else:
        typer.echo(f"Download {job.id} is {_state(job)}.")
