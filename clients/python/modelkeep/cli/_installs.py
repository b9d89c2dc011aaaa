"""``modelkeep install`` and ``modelkeep installs``."""

from __future__ import annotations

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
    size,
    visible,
    when,
)
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from modelkeep.client import Client, ModelInstallJob

_group = typer.Typer(help="Look at installs and control them.", invoke_without_command=True)

JobId = Annotated[int, typer.Argument(help="Number of the install.", min=1, max=LAST_ID)]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(install)
    app.add_typer(_group, name="installs")


def assignments(given: list[str] | None) -> dict[str, Any]:
    """``name=value`` texts as a dict; what is no text in a config is read as JSON, an empty value clears."""
    import json

    from modelkeep.configs import field_types

    types = field_types()
    values: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not FIELD=VALUE, such as name=my-model")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        outer, inner = types.get(name, (str, str))
        allowed = (int, float) if outer is float else outer
        # A name may be 42, or true.
        meant = parsed if isinstance(parsed, allowed) else value
        alone = outer is list and issubclass(inner, str) and meant == value
        values[name] = None if value == "" else [value] if alone else meant
    return values


def labels(given: list[str] | None) -> dict[str, str]:
    """``key=value`` texts as labels; a key alone has the empty value."""
    return {key: value for key, _, value in (text.partition("=") for text in given or ())}


def overrides(given: list[str] | None) -> dict[str, Any]:
    """The same over what a probe finds: an empty value leaves the record's empty, whatever is found."""
    return {name: "" if value is None else value for name, value in assignments(given).items()}


@guarded
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
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for the end.")] = False,
    json: Json = False,
) -> None:
    """Install a model. Ctrl-C leaves the install running; the same command again joins it."""
    from modelkeep.client import Client

    if again and one_copy:
        raise typer.BadParameter("--again makes another copy, and --one-copy none: give one of them.")
    config = overrides(set_) | ({"name": name} if name else {})
    with Client() as client:
        job = client.model_install.import_model(
            source,
            inplace=not copy,
            config=config or None,
            access_token=token,
            expected_sha256=sha256,
            priority=priority,
            reuse="never" if again else "content" if one_copy else "source",
        )
        try:
            if not detach:
                job = _follow(client, job.id)
        except KeyboardInterrupt:
            typer.echo(f"\n{_how_to_go_on(job.id)}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
    if json:
        print_json(as_json(job.message))
    if detach:
        if not json:
            typer.echo(_how_to_go_on(job.id))
        return
    raise typer.Exit(_code(job) if json else _report(job))


@_group.callback()
@guarded
def installs(context: typer.Context) -> None:
    """Look at installs and control them; without a command, list them."""
    if context.invoked_subcommand is None:
        list_installs()


@_group.command("list")
@guarded
def list_installs(
    source: Annotated[str | None, typer.Argument(help="Only those whose source contains this text.")] = None,
    json: Json = False,
) -> None:
    """List the installs, newest first."""
    from modelkeep.client import Client

    with Client() as client:
        jobs = client.model_install.list_jobs(source)
    if json:
        print_json({"installs": [as_json(job.message) for job in jobs]})
        return
    print_table(
        ("ID", "STATE", "PROGRESS", "RESULT", "STARTED", "SOURCE"),
        [
            (job.id, _stage(job), progress(job), _result(job), when(job.job_started), job.source)
            for job in jobs
        ],
        empty=f"No install has {source!r} in its source." if source else "There are no installs.",
    )


@_group.command("watch")
@guarded
def watch_installs(
    id: Annotated[
        int | None, typer.Argument(help="Number of an install; none: all.", min=1, max=LAST_ID)
    ] = None,
    json: Json = False,
) -> None:
    """Follow an install until it ends, or all of them until Ctrl-C."""
    from modelkeep.client import Client

    with Client() as client:
        if id is not None:
            job = _follow(client, id, as_lines=json)
            raise typer.Exit(_code(job) if json else _report(job))
        follow_all(client.model_install.watch(), _stage, as_lines=json)


@_group.command("cancel")
@guarded
def cancel_install(id: JobId, json: Json = False) -> None:
    """Cancel an install and remove what it staged."""
    from modelkeep.client import Client

    with Client() as client:
        client.model_install.cancel_job(id)
        job = client.model_install.wait_for_job(id, timeout=30)
    if json:
        print_json(as_json(job.message))
    else:
        typer.echo(f"Install {id} is {job.status.value}.")


@_group.command("prune")
@guarded
def prune_installs(json: Json = False) -> None:
    """Forget the installs that have ended; models stay."""
    from modelkeep.client import Client

    with Client() as client:
        count = client.model_install.prune_jobs()
    print_pruned(count, "install", json)


def _result(job: ModelInstallJob) -> str:
    return job.config_out.name if job.config_out is not None else job.error_type or ""


def _code(job: ModelInstallJob) -> int:
    return EXIT_OK if job.status == "completed" else EXIT_FAILED


def _stage(job: ModelInstallJob) -> str:
    """What an install does now, for people."""
    from modelkeep.install.v1 import install_pb2

    stage = install_pb2.InstallStage.Name(job.message.stage)
    if job.status != "running" or stage == "INSTALL_STAGE_UNSPECIFIED":
        return job.status.value
    return short(stage, "INSTALL_STAGE_")


def _follow(client: Client, id: int, *, as_lines: bool = False) -> ModelInstallJob:
    watch = client.model_install.watch([id])
    return follow(watch, id, "install", _stage, lambda job: job.settled, as_lines=as_lines)


def _report(job: ModelInstallJob) -> int:
    """Say how an install ended; answers with the exit code."""
    if job.status == "completed" and job.config_out is not None:
        config = job.config_out
        done = "Installed already:" if job.installed_already else "Installed"
        typer.echo(
            f"{done} {visible(config.name)} as {config.key} ({config.model_type}, {config.base_model}, "
            f"{config.model_format}, {size(config.size_bytes)})"
        )
        if job.installed_already:
            typer.echo("  Its record is as it was; `--again` makes another model.", err=True)
        elif job.same_content:
            typer.echo(
                f"  The same content is installed as {', '.join(job.same_content)}; "
                f"`--one-copy` takes that, and `modelkeep rm {config.key}` removes this one.",
                err=True,
            )
        return EXIT_OK
    if job.exception is not None:
        state = "is paused" if job.status == "paused" else "failed"
        complain(job.exception, prefix=f"Install {job.id} {state}")
    else:
        typer.echo(f"Install {job.id} is {job.status.value}.", err=True)
    return EXIT_FAILED


def _how_to_go_on(id: int) -> str:
    """What a person who left an install can do."""
    return (
        f"Detached; install {id} goes on.\n"
        f"  watch it:  modelkeep installs watch {id}\n"
        f"  cancel it: modelkeep installs cancel {id}"
    )
