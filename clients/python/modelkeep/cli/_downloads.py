"""``modelkeep downloads``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli import _complete, _download_limits, _table, _terminal, _watching
from modelkeep.cli._errors import code_of, complain
from modelkeep.cli._fields import labels
from modelkeep.cli._follow import follow, waits
from modelkeep.cli._jobs import (
    Ended,
    Failed,
    OlderThan,
    age_s,
    common_facts,
    ended_states,
    look,
    tell_forgotten,
)
from modelkeep.cli._listing import Column, Listing, time_column
from modelkeep.cli._options import chosen
from modelkeep.cli._output import (
    LAST_ID,
    as_json,
    emit,
    print_facts,
    progress,
    say,
    short,
    size,
)
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from modelkeep.exceptions import ModelkeepError
from modelkeep.hubs import Repository, hub_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelkeep.client import Client, DownloadJobBase, DownloadQueue

downloads_group = group("Look at downloads and control them; without a command, list them.")

JobId = Annotated[
    int,
    typer.Argument(help="Number of the download.", min=1, max=LAST_ID, autocompletion=_complete.downloads),
]
Queue = Annotated[str | None, typer.Option(help='Only this queue; "" is the default one.')]
Token = Annotated[
    str | None,
    typer.Option(help="Token for the source's host.", envvar="MODELKEEP_ACCESS_TOKEN", show_envvar=True),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="An http(s) address, a path on the service's host, or what a hub names: owner/name, "
        "owner/name:subfolder, a page of Hugging Face or Civitai."
    ),
]
# Which part of what a hub names.
Variant = Annotated[
    str | None, typer.Option(help="Which files of a hub's model, where there are several: fp16, onnx.")
]
Subfolder = Annotated[str | None, typer.Option(help="Folder, or one file, of a repository.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")]
# What every download that is made takes.
Priority = Annotated[int, typer.Option(help="Lower runs first.", min=-(1 << 31), max=(1 << 31) - 1)]
IntoQueue = Annotated[str, typer.Option(help="Queue that the download goes into.")]
Labels = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label to find the download by.")]
Start = Annotated[bool, typer.Option("--start/--no-start", help="Begin at once, or with `resume`.")]
KeepPartial = Annotated[
    bool, typer.Option("--keep-partial", help="Keep what there is after an error, for `retry` to go on from.")
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the end.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(downloads_group, name="downloads")
    lists(downloads_group, downloads)
    verb(
        downloads_group,
        "list",
        takes=LIST,
        lists=listing(),
        examples=(
            "modelkeep downloads list --filter state=running,enqueued",
            "modelkeep downloads list -w",
        ),
    )(list_downloads)
    verb(
        downloads_group,
        takes=DATA,
        examples=(
            "modelkeep downloads add https://example.com/vae.safetensors --sha256 SUM",
            "modelkeep downloads add https://example.com/a.bin modelkeep-data/downloads/a --name b.bin -d",
            "modelkeep downloads add https://example.com/vae.safetensors --sha256 SUM --replace",
            "modelkeep downloads add owner/name modelkeep-data/downloads/name --variant fp16",
        ),
    )(add)
    verb(downloads_group, "show", takes=DATA, examples=("modelkeep downloads show 3",))(show_download)
    verb(
        downloads_group,
        "watch",
        takes=LIST,
        lists=listing(),
        examples=("modelkeep downloads watch 3", "modelkeep downloads watch --json"),
    )(watch_downloads)
    _download_limits.add_to(downloads_group)
    verb(downloads_group, "rm", takes=DATA, examples=("modelkeep downloads rm 3 4",))(remove_downloads)
    verb(
        downloads_group,
        "prune",
        takes=DATA,
        examples=("modelkeep downloads prune", "modelkeep downloads prune --state error --older-than 12h"),
    )(prune_downloads)


def listing() -> Listing[DownloadJobBase]:
    """How downloads are listed."""
    return Listing(
        "download",
        "downloads",
        (
            Column("ID", lambda job: job.id, right=True, order=lambda job: job.id),
            Column("STATE", _state, look=look),
            Column("PROGRESS", _bytes, right=True, drop=2, order=lambda job: job.message.progress.bytes_done),
            Column("PRIORITY", lambda job: job.priority, right=True, drop=5, order=lambda job: job.priority),
            time_column("STARTED", lambda job: job.job_started, drop=3),
            Column("SOURCE", _source, drop=1, cut="start"),
            Column("QUEUE", lambda job: job.message.queue, drop=6, wide=True),
            Column("PATH", lambda job: job.path or "", drop=4, wide=True),
            Column("WAITS FOR", lambda job: waits(job.message)[0], drop=6, wide=True),
        ),
        key=lambda job: str(job.id),
        name=lambda job: str(job.path or job.source),
        data=lambda job: as_json(job.message),
        filters={
            "id": lambda job: (str(job.id),),
            "state": lambda job: (job.status.value, _state(job)),
            "source": lambda job: (str(job.source),),
            "queue": lambda job: (job.message.queue,),
            "label": lambda job: (f"{name}={value}" for name, value in job.message.labels.items()),
        },
        totals=lambda jobs: size(sum(job.message.progress.bytes_done for job in jobs)),
    )


@contextlib.contextmanager
def queue_of(name: str | None) -> Iterator[DownloadQueue]:
    """A queue, or all of them as one."""
    with connect() as client:
        yield client.create_download_queue(name, quiet=True)


def downloads(ctx: typer.Context) -> None:
    """Look at downloads and control them; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_downloads()


def list_downloads(queue: Queue = None) -> None:
    """List the downloads of all queues."""
    empty = f"There are no downloads in queue {queue!r}." if queue else "There are no downloads."
    with queue_of(queue) as jobs_of:
        if chosen().watch:
            _watching.watch(listing(), _watching.of_frames(jobs_of.watch()), empty=empty)
        jobs = jobs_of.list_jobs()
    _table.show(listing(), jobs, empty=empty)


def add(
    source: SourceArgument,
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder for the file, or files, beneath one of the service's roots; by default the first, "
            "and in there, for a repository, a folder of its name."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the file; by default that of the source.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Hash that the file must have.")] = None,
    priority: Priority = 10,
    rate: _download_limits.Rate = None,
    queue: IntoQueue = "",
    label: Labels = None,
    token: Token = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a file that is there, once the new one is checked.")
    ] = False,
    keep_partial: KeepPartial = False,
    variant: Variant = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    start: Start = True,
    detach: Detach = False,
) -> None:
    """Fetch a file, or what a hub names, or copy a local file. Ctrl-C leaves the download running."""
    part = {"variant": variant, "subfolder": subfolder, "revision": revision}
    with connect() as client:
        jobs = client.create_download_queue(queue, quiet=True)
        into = folder or f"{_first_root(client)}{_folder_of(jobs, source)}"
        job = _job(jobs, source, into, token, part, filename=name, priority=priority, expected_sha256=sha256)
        job.preserve_partial_downloads = keep_partial
        job.labels = labels(label)
        job.replace_existing = replace
        job.max_bytes_per_second = 0 if rate is None else _download_limits.rate_of(rate)
        submit(jobs, job, start=start, detach=detach)


def submit(jobs: DownloadQueue, job: DownloadJobBase, *, start: bool, detach: bool) -> None:
    """Submit a download, follow it to its end unless that is not wanted, and say what came of it.

    Raises:
        typer.Exit: With the code of its end.
    """
    made = jobs.submit_download_job(job, start)
    if detach or not start:
        tell(made)
        return
    follow_to_end(jobs, made)


def follow_to_end(jobs: DownloadQueue, made: DownloadJobBase) -> None:
    """Follow a download to its end, and say what came of it.

    Raises:
        typer.Exit: With the code of its end.
    """
    try:
        made = _follow(jobs, made.id)
    except KeyboardInterrupt:
        _terminal.complain(f"\nDetached; `modelkeep downloads watch {made.id}` goes on watching it.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(_report(made, quiet=emit(lambda: as_json(made.message))))


def show_download(id: JobId) -> None:
    """Show all that is known about a download."""
    with queue_of(None) as jobs:
        job = jobs.id_to_job(id)
    if emit(lambda: as_json(job.message)):
        return
    message = job.message
    print_facts(
        [
            ("id", job.id),
            ("state", _state(job)),
            ("source", job.source),
            ("comes from", message.final_url if message.final_url != str(job.source) else ""),
            ("destination", message.destination),
            ("path", job.path or ""),
            ("files", _files(message)),
            ("revision", message.source.remote.revision),
            ("variant", message.source.remote.variant),
            ("progress", _bytes(job)),
            ("queue", message.queue),
            ("priority", job.priority),
            ("limit", f"{size(job.max_bytes_per_second)} a second" if job.max_bytes_per_second else ""),
            ("expected sha256", message.expected_sha256),
            ("sha256", message.sha256),
            ("verified", "yes" if message.verified else ""),
            ("content type", message.content_type),
            *common_facts(job),
        ]
    )
    if isinstance(job.error, ModelkeepError) and not waits(job.message)[0]:
        complain(job.error, prefix="Paused" if job.status == "paused" else "Error")


def watch_downloads(
    id: Annotated[
        int | None,
        typer.Argument(
            help="Number of a download; none: all.", min=1, max=LAST_ID, autocompletion=_complete.downloads
        ),
    ] = None,
    queue: Queue = None,
) -> None:
    """Follow a download until it ends, or all of them until Ctrl-C."""
    with queue_of(queue) as jobs:
        if id is None:
            empty = "There are no downloads."
            _watching.watch(listing(), _watching.of_frames(jobs.watch()), empty=empty)
            return
        job = _follow(jobs, id, as_lines=chosen().as_data)
    raise typer.Exit(_report(job, quiet=chosen().as_data))


def remove_downloads(
    ids: Annotated[
        list[int],
        typer.Argument(
            help="Numbers of downloads that have ended.",
            min=1,
            max=LAST_ID,
            autocompletion=_complete.downloads,
        ),
    ],
) -> None:
    """Forget some downloads that have ended; delivered files stay."""
    with queue_of(None) as jobs:
        tell_forgotten(jobs.prune_jobs(ids), "download")


def prune_downloads(
    queue: Queue = None, state: Ended = None, failed: Failed = False, older_than: OlderThan = None
) -> None:
    """Forget the downloads that have ended; delivered files stay."""
    statuses, age = ended_states(state, failed=failed), age_s(older_than)
    with queue_of(queue) as jobs:
        tell_forgotten(jobs.prune_jobs(statuses=statuses, older_than=age), "download")


def _first_root(client: Client) -> str:
    for root in client.server_info("download").roots:
        if root.purpose == "download":
            return root.path
    raise typer.BadParameter("the service names no folder for downloads: name one", param_hint="FOLDER")


def _folder_of(jobs: DownloadQueue, source: str) -> str:
    """What stands behind a root for a repository's files, which would lie among others there; else ""."""
    from modelkeep.client import DownloadJobRepoID

    if jobs.job_class(source) is not DownloadJobRepoID:
        return ""
    try:
        named = hub_of(source)
    except ValueError:  # which the service tells
        return ""
    return f"/{named.id.rpartition('/')[2]}" if isinstance(named, Repository) else ""


def _job(
    jobs: DownloadQueue,
    source: str,
    folder: str,
    token: str | None,
    part: Mapping[str, str | None],
    **more: Any,
) -> DownloadJobBase:
    from modelkeep.client import DownloadJobPath, DownloadJobRepoID, DownloadJobURL

    fields = {"source": source, "destination": Path(folder), "destination_is_folder": True, **more}
    cls = jobs.job_class(source)
    if cls is not DownloadJobRepoID and (named := next((name for name in part if part[name]), "")):
        raise typer.BadParameter(f"{visible(source)!r} is nothing that a hub names", param_hint=f"--{named}")
    try:
        if cls is DownloadJobPath:
            return DownloadJobPath(**fields, keep_source=True)
        if cls is DownloadJobRepoID:
            return DownloadJobRepoID(**fields, **part, access_token=token)
        return DownloadJobURL(**fields, access_token=token)
    except ValueError as error:  # pydantic's; its text has lines of its own
        raise typer.BadParameter(f"{source!r} is no address: {str(error).splitlines()[-2].strip()}") from None


def _follow(jobs: DownloadQueue, id: int, *, as_lines: bool = False) -> DownloadJobBase:
    def over(job: DownloadJobBase) -> bool:
        # A paused or idle job goes on when somebody says so; who follows it would wait for ever.
        return job.ended or job.status in ("paused", "idle")

    return follow(jobs.watch([id]), id, "download", _state, over, as_lines=as_lines)


def _report(job: DownloadJobBase, *, quiet: bool) -> int:
    """Say how a download ended, unless that was done; answers with the exit code."""
    if isinstance(job.error, ModelkeepError):
        complain(job.error, prefix=f"Download {job.id} is {job.status.value}")
        return code_of(job.error)
    if not quiet:
        say(f"Download {job.id} is {job.status.value}: {visible(job.path or '')}")
    return EXIT_OK if job.status == "completed" else EXIT_FAILED


def _state(job: DownloadJobBase) -> str:
    from modelkeep.download.v1 import download_pb2

    try:
        stage = short(download_pb2.DownloadStage.Name(job.message.stage), "DOWNLOAD_STAGE_")
    except ValueError:
        stage = ""
    return f"{job.status.value} ({stage})" if stage else job.status.value


def _bytes(job: Any) -> str:
    return progress(job) if hasattr(job, "total_bytes") else ""


def _source(job: DownloadJobBase) -> str:
    more = job.message.file_count - 1
    return f"{job.source} and {more:,} more" if more > 0 else str(job.source)


def _files(message: Any) -> str:
    """How many of several files are there."""
    done = sum(file.done for file in message.files)
    return f"{done:,} of {message.file_count:,}" if message.file_count else ""


def tell(job: DownloadJobBase) -> None:
    if not emit(lambda: as_json(job.message)):
        shown = job.status.value if job.ended else _state(job)
        say(f"Download {job.id} is {shown}.")
