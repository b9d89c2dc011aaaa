"""``modelkeep install`` and ``modelkeep installs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from modelkeep.cli import _complete, _table, _terminal, _watching
from modelkeep.cli._asking import DryRun
from modelkeep.cli._errors import code_of, complain
from modelkeep.cli._fields import labels, overrides
from modelkeep.cli._follow import follow, waits
from modelkeep.cli._listing import Column, Listing, time_column
from modelkeep.cli._options import chosen
from modelkeep.cli._output import (
    LAST_ID,
    as_json,
    counted,
    emit,
    print_facts,
    progress,
    say,
    short,
    size,
    when,
)
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import Look, visible
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from modelkeep.client import Client, ModelInstallJob
    from modelkeep.configs import AnyModelConfig

_group = group("Look at installs and control them; without a command, list them.")

_DAY_S: Final = 86400.0
_NUMBER = typer.Argument(help="Number of the install.", min=1, max=LAST_ID, autocompletion=_complete.installs)
JobId = Annotated[int, _NUMBER]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep install ./tiny-sd",
            "modelkeep install ~/loras/ink.safetensors --copy --name ink --set base=sdxl",
            "modelkeep install https://example.com/vae.safetensors --sha256 SUM --detach",
        ),
    )(install)
    app.add_typer(_group, name="installs")
    lists(_group, installs)
    verb(
        _group,
        "list",
        takes=LIST,
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
        examples=("modelkeep installs watch 7", "modelkeep installs watch --json"),
    )(watch_installs)
    verb(_group, "cancel", takes=DATA, examples=("modelkeep installs cancel 7",))(cancel_install)
    verb(_group, "rm", takes=DATA, examples=("modelkeep installs rm 7 9",))(remove_installs)
    verb(
        _group,
        "prune",
        takes=DATA,
        examples=("modelkeep installs prune", "modelkeep installs prune --failed --older-than 7"),
    )(prune_installs)


def listing() -> Listing[ModelInstallJob]:
    """How installs are listed."""
    return Listing(
        "install",
        "installs",
        (
            Column("ID", lambda job: job.id, right=True, order=lambda job: job.id),
            Column("STATE", _stage, look=_look),
            Column("PROGRESS", progress, right=True, drop=3, order=lambda job: job.bytes),
            Column("RESULT", _result, drop=2, cut="end"),
            time_column("STARTED", lambda job: job.job_started, drop=4),
            Column("SOURCE", lambda job: job.source, drop=1, cut="start"),
            time_column("ENDED", lambda job: job.job_ended, drop=5, wide=True),
            Column("WAITS FOR", lambda job: waits(job.message)[0], drop=6, wide=True),
            Column("KEY", lambda job: job.model_key, drop=7, wide=True),
        ),
        key=lambda job: str(job.id),
        name=_result,
        data=lambda job: as_json(job.message),
        filters={
            "id": lambda job: (str(job.id),),
            "state": lambda job: (job.status.value, _stage(job)),
            "source": lambda job: (str(job.source),),
            "label": lambda job: (
                f"{name}={value}"
                for labels in (job.message.labels, job.message.overrides.labels)
                for name, value in labels.items()
            ),
            "model": lambda job: (job.model_key, _result(job)),
        },
        totals=_totals,
    )


def install(
    source: Annotated[
        str, typer.Argument(help="A safetensors file, a diffusers folder, or an http(s) address of a file.")
    ],
    copy: Annotated[
        bool,
        typer.Option("--copy/--inplace", help="Copy a local model into models_dir, or leave it where it is."),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the record, over what is found."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Hash that the downloaded file must have.")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Token for the source's host.", envvar="MODELKEEP_ACCESS_TOKEN", show_envvar=True),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Of the download; lower runs first.", min=-(1 << 31), max=(1 << 31) - 1)
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Make another model, also if this one is installed already.")
    ] = False,
    one_copy: Annotated[
        bool,
        typer.Option("--one-copy", help="Take a model with the same content, wherever that came from."),
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Label of the job, its download and the model."),
    ] = None,
    dry_run: DryRun = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the end.")] = False,
) -> None:
    """Install a model. Ctrl-C leaves the install running; the same command again joins it."""
    if again and one_copy:
        raise typer.BadParameter("--again makes another copy, and --one-copy none: give one of them.")
    config = overrides(set_) | ({"name": name} if name else {})
    if dry_run:
        return _rehearse(source, not copy, config, sha256, again=again, one_copy=one_copy)
    with connect() as client:
        job = client.model_install.import_model(
            source,
            inplace=not copy,
            config=config or None,
            access_token=token,
            expected_sha256=sha256,
            priority=priority,
            reuse=_reuse(again, one_copy),
            labels=labels(label),
        )
        try:
            if not detach:
                job = _follow(client, job.id)
        except KeyboardInterrupt:
            _terminal.complain(f"\n{_how_to_go_on(job.id)}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    told = emit(lambda: as_json(job.message))
    if detach:
        if not told:
            say(_how_to_go_on(job.id))
        return None
    raise typer.Exit(_report(job, quiet=told))


def _reuse(again: bool, one_copy: bool) -> Literal["never", "content", "source"]:
    return "never" if again else "content" if one_copy else "source"


def _rehearse(
    source: str, inplace: bool, config: dict[str, Any], sha256: str | None, *, again: bool, one_copy: bool
) -> None:
    """Say what an install would do."""
    with connect() as client:
        job = client.model_install.rehearse(
            source, inplace, config=config or None, expected_sha256=sha256, reuse=_reuse(again, one_copy)
        )
    if emit(lambda: as_json(job.message)):
        return
    message = job.message
    if job.installed_already and job.config_out is not None:
        _report_installed(job, job.config_out)
        return
    model = message.probe.model
    copied = message.progress.HasField("bytes_total")
    print_facts(
        [
            ("would install", model.name or job.source),
            ("base", model.base),
            ("size", size(message.probe.size_bytes) if message.HasField("probe") else "told by the download"),
            ("copied", size(message.progress.bytes_total) if copied else ""),
            ("to" if not job.inplace else "where it is", job.local_path or ""),
            ("same content", ", ".join(job.same_content)),
        ]
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
    why, until = waits(job.message)
    print_facts(
        [
            ("id", job.id),
            ("state", _stage(job)),
            ("source", job.source),
            ("inplace", job.inplace),
            ("asked for", ", ".join(f"{name}={value}" for name, value in job.config_in.items())),
            ("progress", progress(job)),
            ("model", _result(job) if job.status == "completed" else ""),
            ("key", job.model_key),
            ("path", job.local_path or ""),
            ("download", job.message.download_id or ""),
            ("attempt", job.message.attempt),
            ("waits for", why),
            ("next try", when(until)),
            ("made", when(job.message.create_time.ToNanoseconds() / 1e9)),
            ("started", when(job.job_started)),
            ("ended", when(job.job_ended)),
        ]
    )
    if job.exception is not None and not why:
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
        job = _follow(client, id, as_lines=chosen().as_data)
    raise typer.Exit(_report(job, quiet=chosen().as_data))


def cancel_install(id: JobId) -> None:
    """Cancel an install and remove what it staged."""
    with connect() as client:
        client.model_install.cancel_job(id)
        job = client.model_install.wait_for_job(id, timeout=30)
    if not emit(lambda: as_json(job.message)):
        say(f"Install {id} is {job.status.value}.")


def remove_installs(
    ids: Annotated[
        list[int],
        typer.Argument(
            help="Numbers of installs that have ended.",
            min=1,
            max=LAST_ID,
            autocompletion=_complete.installs,
        ),
    ],
) -> None:
    """Forget some installs that have ended, with the downloads that failed ones kept; models stay."""
    with connect() as client:
        count = client.model_install.prune_jobs(ids)
    if not emit(lambda: {"pruned_count": str(count)}):
        say(f"Forgot {counted(count, 'install')}.")


def prune_installs(
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", help="Only those that ended so many days ago.", min=0)
    ] = 0,
) -> None:
    """Forget the installs that have ended; models stay."""
    with connect() as client:
        count = client.model_install.prune_jobs(
            statuses=["error"] if failed else (), older_than=older_than * _DAY_S
        )
    if not emit(lambda: {"pruned_count": str(count)}):
        say(f"Forgot {counted(count, 'install')}.")


def _watch(client: Client, source: str | None, empty: str) -> None:
    def passes(job: ModelInstallJob) -> bool:
        return source is None or source in str(job.source)

    frames = _watching.of_frames(client.model_install.watch(), passes)
    newest_first = (dict(sorted(state.items(), reverse=True)) for state in frames)
    _watching.watch(listing(), newest_first, empty=empty)


def _result(job: ModelInstallJob) -> str:
    return job.config_out.name if job.config_out is not None else job.error_type or ""


def _look(job: ModelInstallJob) -> Look | None:
    looks: dict[str, Look] = {"error": "red", "paused": "yellow", "completed": "green"}
    return looks.get(job.status.value)


def _totals(jobs: Any) -> str:
    running = sum(not job.settled for job in jobs)
    failed = sum(job.status == "error" for job in jobs)
    return ", ".join(
        text for count, text in ((running, f"{running} under way"), (failed, f"{failed} failed")) if count
    )


def _stage(job: ModelInstallJob) -> str:
    """What an install does now, for people."""
    from modelkeep.install.v1 import install_pb2

    try:
        stage = install_pb2.InstallStage.Name(job.message.stage)
    except ValueError:  # of a newer service
        return job.status.value
    if job.status != "running" or stage == "INSTALL_STAGE_UNSPECIFIED":
        return job.status.value
    return short(stage, "INSTALL_STAGE_")


def _follow(client: Client, id: int, *, as_lines: bool = False) -> ModelInstallJob:
    watch = client.model_install.watch([id])
    return follow(watch, id, "install", _stage, lambda job: job.settled, as_lines=as_lines)


def _report(job: ModelInstallJob, *, quiet: bool) -> int:
    """Say how an install ended, unless that was done; answers with the exit code."""
    if job.status == "completed" and job.config_out is not None:
        if not quiet:
            _report_installed(job, job.config_out)
        return EXIT_OK
    if job.exception is not None:
        state = "is paused" if job.status == "paused" else "failed"
        complain(job.exception, prefix=f"Install {job.id} {state}")
        return code_of(job.exception)
    if not quiet:
        _terminal.complain(f"Install {job.id} is {job.status.value}.")
    return EXIT_OK if job.status == "completed" else EXIT_FAILED


def _report_installed(job: ModelInstallJob, config: AnyModelConfig) -> None:
    done = "Installed already:" if job.installed_already else "Installed"
    say(
        f"{done} {visible(config.name)} as {config.key} ({config.model_type}, "
        f"{config.base_model}, {config.model_format}, {size(config.size_bytes)})"
    )
    if job.installed_already:
        _terminal.complain("  Its record is as it was; `--again` makes another model.")
    elif job.missing_content:
        missing = job.missing_content[0]
        _terminal.complain(
            f"  The files of {missing} had this content and are gone. To keep that model and not this one: "
            f"`modelkeep rm {config.key} --keep-files`, then `modelkeep relink {missing} {job.local_path}`."
        )
    elif job.same_content:
        _terminal.complain(
            f"  The same content is installed as {', '.join(job.same_content)}; "
            f"`--one-copy` takes that, and `modelkeep rm {config.key}` removes this one."
        )


def _how_to_go_on(id: int) -> str:
    """What a person who left an install can do."""
    return (
        f"Detached; install {id} goes on.\n"
        f"  watch it:  modelkeep installs watch {id}\n"
        f"  cancel it: modelkeep installs cancel {id}"
    )
