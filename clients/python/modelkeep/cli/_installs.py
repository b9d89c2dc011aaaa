"""``modelkeep installs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli import _complete, _install_steering, _table, _watching
from modelkeep.cli._errors import complain
from modelkeep.cli._follow import waits
from modelkeep.cli._install import follow_install, report, stage
from modelkeep.cli._install_steering import JobId
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
)
from modelkeep.cli._places import connect
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb

if TYPE_CHECKING:
    from modelkeep.client import Client, ModelInstallJob

_group = group("Look at installs and control them; without a command, list them.")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_group, name="installs")
    lists(_group, installs)
    verb(
        _group,
        "list",
        takes=LIST,
        lists=listing(),
        examples=(
            "modelkeep installs list --filter state=running,waiting -w",
            "modelkeep installs list huggingface --limit 5",
        ),
    )(list_installs)
    verb(_group, "show", takes=DATA, examples=("modelkeep installs show 7",))(show_install)
    verb(
        _group,
        "watch",
        takes=LIST,
        lists=listing(),
        examples=("modelkeep installs watch 7", "modelkeep installs watch --json"),
    )(watch_installs)
    _install_steering.add_to(_group)
    verb(
        _group,
        "prune",
        takes=DATA,
        examples=("modelkeep installs prune", "modelkeep installs prune --failed --older-than 7d"),
    )(prune_installs)


def listing() -> Listing[ModelInstallJob]:
    """How installs are listed."""
    return Listing(
        "install",
        "installs",
        (
            Column("ID", lambda job: job.id, right=True, order=lambda job: job.id),
            Column("STATE", stage, look=look),
            Column("PROGRESS", progress, right=True, drop=3, order=lambda job: job.bytes),
            Column("RESULT", _result, drop=2, cut="end"),
            time_column("STARTED", lambda job: job.job_started, drop=4),
            Column("SOURCE", lambda job: job.source, drop=1, cut="start"),
            time_column("ENDED", lambda job: job.job_ended, drop=5, wide=True),
            Column("WAITS FOR", lambda job: waits(job.message)[0], drop=6, wide=True),
            Column("KEY", lambda job: job.model_key, drop=7, wide=True),
        ),
        key=lambda job: str(job.id),
        name=lambda job: job.config_out.name if job.config_out is not None else str(job.source),
        data=lambda job: as_json(job.message),
        filters={
            "id": lambda job: (str(job.id),),
            "state": lambda job: (job.status.value, stage(job)),
            "source": lambda job: (str(job.source),),
            "label": lambda job: (
                f"{name}={value}"
                for labels in (job.message.labels, job.message.overrides.labels)
                for name, value in labels.items()
            ),
            "model": lambda job: (job.model_key, _model_name(job)),
        },
        totals=_totals,
    )


def installs(ctx: typer.Context) -> None:
    """Look at installs and control them; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_installs()


def list_installs(
    source: Annotated[str | None, typer.Argument(help="Only those whose source contains this text.")] = None,
) -> None:
    """List the installs, newest first."""
    empty = f"No install has {source!r} in its source." if source else "There are no installs."
    with connect() as client:
        if chosen().watch:
            _watch(client, source, empty)
        jobs = client.model_install.list_jobs(source)
    _table.show(listing(), jobs, empty=empty)


def show_install(id: JobId) -> None:
    """Show all that is known about an install."""
    with connect() as client:
        job = client.model_install.get_job_by_id(id)
    if emit(lambda: as_json(job.message)):
        return
    print_facts(
        [
            ("id", job.id),
            ("state", stage(job)),
            ("source", job.source),
            ("inplace", job.inplace),
            ("asked for", ", ".join(f"{name}={value}" for name, value in job.config_in.items())),
            ("variant", job.plan.variant if job.plan else ""),
            ("revision", job.plan.revision if job.plan else ""),
            ("progress", progress(job)),
            ("model", _model_name(job)),
            ("key", job.model_key),
            ("path", job.local_path or ""),
            ("download", job.message.download_id or ""),
            *common_facts(job),
        ]
    )
    if job.exception is not None and not waits(job.message)[0]:
        complain(job.exception, prefix="Paused" if job.status == "paused" else "Error")


def watch_installs(
    id: Annotated[
        int | None,
        typer.Argument(
            help="Number of an install; none: all.", min=1, max=LAST_ID, autocompletion=_complete.installs
        ),
    ] = None,
) -> None:
    """Follow an install until it ends, or all of them until Ctrl-C."""
    with connect() as client:
        if id is None:
            _watch(client, None, "There are no installs.")
            return
        job = follow_install(client, id, as_lines=chosen().as_data)
    raise typer.Exit(report(job, quiet=chosen().as_data))


def prune_installs(state: Ended = None, failed: Failed = False, older_than: OlderThan = None) -> None:
    """Forget the installs that have ended; models stay."""
    statuses, age = ended_states(state, failed=failed), age_s(older_than)
    with connect() as client:
        tell_forgotten(client.model_install.prune_jobs(statuses=statuses, older_than=age), "install")


def _watch(client: Client, source: str | None, empty: str) -> None:
    def passes(job: ModelInstallJob) -> bool:
        return source is None or source in str(job.source)

    frames = _watching.of_frames(client.model_install.watch(), passes)
    newest_first = (dict(sorted(state.items(), reverse=True)) for state in frames)
    _watching.watch(listing(), newest_first, empty=empty)


def _result(job: ModelInstallJob) -> str:
    return _model_name(job) or job.message.error.reason


def _model_name(job: ModelInstallJob) -> str:
    return job.config_out.name if job.config_out is not None else ""


def _totals(jobs: Any) -> str:
    running = sum(not job.settled for job in jobs)
    failed = sum(job.status == "error" for job in jobs)
    return ", ".join(
        text for count, text in ((running, f"{running} under way"), (failed, f"{failed} failed")) if count
    )
