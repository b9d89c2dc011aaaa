"""``modelkeep install``, and how an install is followed and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modelkeep.cli import _terminal
from modelkeep.cli._asking import DryRun
from modelkeep.cli._downloads import Revision, Subfolder, Variant
from modelkeep.cli._errors import code_of, complain
from modelkeep.cli._fields import labels, overrides
from modelkeep.cli._follow import follow
from modelkeep.cli._output import as_json, emit, print_facts, say, short, size
from modelkeep.cli._places import connect
from modelkeep.cli._plans import tell_plan
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb
from modelkeep.cli._words import few
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from modelkeep.client import Client, ModelInstallJob
    from modelkeep.configs import AnyModelConfig


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep install ./tiny-sd",
            "modelkeep install ~/loras/ink.safetensors --copy --name ink --set base=sdxl",
            "modelkeep install stabilityai/sdxl-vae --dry-run",
            "modelkeep install runwayml/stable-diffusion-v1-5:vae --variant fp16",
            "modelkeep install 'https://civitai.com/models/8765?modelVersionId=10638'",
            "modelkeep install https://example.com/vae.safetensors --sha256 SUM --detach",
        ),
    )(install)


def install(
    source: Annotated[
        str,
        typer.Argument(
            help="A safetensors file, a diffusers folder, a repository of Hugging Face (owner/name, "
            "owner/name:subfolder), the address of a page of Civitai, or any http(s) address of a file."
        ),
    ],
    variant: Variant = None,
    subfolder: Subfolder = None,
    revision: Revision = None,
    copy: Annotated[
        bool,
        typer.Option("--copy/--inplace", help="Copy a local model into models_dir, or leave it where it is."),
    ] = False,
    move: Annotated[
        bool,
        typer.Option("--move", help="Move a local model into models_dir; what lies there goes."),
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
        bool,
        typer.Option(
            "--again",
            help="Make another model, of what is installed already too.",
        ),
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
    if copy and move:
        raise typer.BadParameter("--copy leaves the model where it lies, --move does not: give one of them.")
    config = overrides(set_) | ({"name": name} if name else {})
    asked: dict[str, Any] = {
        "inplace": not copy,
        "move": move,
        "variant": variant,
        "subfolder": subfolder,
        "revision": revision,
        "config": config or None,
        "access_token": token,
        "expected_sha256": sha256,
        "reuse": _reuse(again, one_copy),
    }
    if dry_run:
        return _rehearse(source, asked)
    with connect() as client:
        job = client.model_install.import_model(source, priority=priority, labels=labels(label), **asked)
        try:
            if not detach:
                job = follow_install(client, job.id)
        except KeyboardInterrupt:
            _terminal.complain(f"\n{_how_to_go_on(job.id)}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    told = emit(lambda: as_json(job.message))
    if detach:
        if not told:
            say(_how_to_go_on(job.id))
        return None
    raise typer.Exit(report(job, quiet=told))


def _reuse(again: bool, one_copy: bool) -> Literal["never", "content", "source"]:
    return "never" if again else "content" if one_copy else "source"


def _rehearse(source: str, asked: dict[str, Any]) -> None:
    """Say what an install would do."""
    with connect() as client:
        job = client.model_install.rehearse(source, **asked)
    if emit(lambda: as_json(job.message)):
        return
    message = job.message
    if job.installed_already and job.config_out is not None:
        _report_installed(job, job.config_out)
        return
    if job.plan is not None:
        told = message.progress.HasField("bytes_total")
        tell_plan(job.plan)
        print_facts(
            [
                ("fetched", size(message.progress.bytes_total) if told else ""),
                ("to", job.local_path or ""),
                ("same content", ", ".join(job.same_content)),
            ]
        )
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


def stage(job: ModelInstallJob) -> str:
    """What an install does now, for people."""
    from modelkeep.install.v1 import install_pb2

    try:
        stage = install_pb2.InstallStage.Name(job.message.stage)
    except ValueError:  # of a newer service
        return job.status.value
    if job.status != "running" or stage == "INSTALL_STAGE_UNSPECIFIED":
        return job.status.value
    return short(stage, "INSTALL_STAGE_")


def follow_install(client: Client, id: int, *, as_lines: bool = False) -> ModelInstallJob:
    """Show an install until it is over, or waits for a caller."""
    watch = client.model_install.watch([id])
    return follow(watch, id, "install", stage, lambda job: job.settled, as_lines=as_lines)


def report(job: ModelInstallJob, *, quiet: bool) -> int:
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
    if config.license:
        _terminal.complain(f"  Its licence: {visible(config.license[:200])}")
    if job.installed_already:
        # A path has one record: another model of it is a copy.
        another = "--again --copy" if job.inplace else "--again"
        _terminal.complain(f"  Its record is as it was; `{another}` makes another model.")
    elif job.missing_content:
        missing = job.missing_content[0]
        _terminal.complain(
            f"  The files of {missing} had this content and are gone. To keep that model and not this one: "
            f"`modelkeep rm {config.key} --keep-files`, then `modelkeep relink {missing} {job.local_path}`."
        )
    elif job.same_content:
        _terminal.complain(
            f"  The same content is installed as {few(job.same_content)}; "
            f"`--one-copy` takes that, and `modelkeep rm {config.key}` removes this one."
        )


def _how_to_go_on(id: int) -> str:
    """What a person who left an install can do."""
    return (
        f"Detached; install {id} goes on.\n"
        f"  watch it:  modelkeep installs watch {id}\n"
        f"  cancel it: modelkeep installs cancel {id}"
    )
