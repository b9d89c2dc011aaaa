"""Following an install until it ends: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from modelkeep.cli._errors import complain
from modelkeep.cli._output import as_json, console, print_json, short, size, visible
from modelkeep.defaults import EXIT_FAILED, EXIT_OK
from modelkeep.exceptions import ModelkeepError, UnknownJobIDException

if TYPE_CHECKING:
    from modelkeep.client import Client, ModelInstallJob


class Bar:
    """Shows how far a job is."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._said = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[Bar]:
        """On a terminal the bar is drawn inside."""
        if not sys.stderr.isatty():
            yield self
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=console(stderr=True), transient=True) as self._progress:
            self._task = self._progress.add_task("", total=None)
            yield self

    def update(self, text: str, done: int, total: int) -> None:
        """Show a state, and bytes."""
        if self._progress is not None:
            self._progress.update(self._task, description=text, completed=done, total=total or None)
        elif text != self._said:
            typer.echo(text, err=True)
        self._said = text


def stage_of(job: ModelInstallJob) -> str:
    """What an install does now, for people."""
    from modelkeep.install.v1 import install_pb2

    stage = install_pb2.InstallStage.Name(job.message.stage)
    if job.status != "running" or stage == "INSTALL_STAGE_UNSPECIFIED":
        return job.status.value
    return short(stage, "INSTALL_STAGE_")


def follow_install(client: Client, id: int, *, as_lines: bool = False) -> ModelInstallJob:
    """Show an install until nothing more happens to it by itself; answers with its last state.

    Raises:
        UnknownJobIDException: There is no such job.
    """
    last: ModelInstallJob | None = None
    with Bar().shown() as bar, contextlib.closing(client.model_install.watch([id])) as frames:
        for frame in frames:
            for event in frame.events:
                last = event.put
                if last is None:
                    raise UnknownJobIDException(f"Install {id} was pruned.", metadata={"id": str(id)})
                if as_lines:
                    print_json(as_json(last.message), lines=True)
                else:
                    bar.update(f"Install {id}: {stage_of(last)}", last.bytes, last.total_bytes)
            if last is not None and last.settled:
                return last
            if frame.snapshot_complete and last is None:
                raise UnknownJobIDException(f"There is no install {id}.", metadata={"id": str(id)})
    raise ModelkeepError("The watch ended.")


def report(job: ModelInstallJob) -> int:
    """Say how an install ended; answers with the exit code."""
    if job.status == "completed" and job.config_out is not None:
        config = job.config_out
        typer.echo(
            f"Installed {visible(config.name)} as {config.key} ({config.model_type}, {config.base_model}, "
            f"{config.model_format}, {size(config.size_bytes)})"
        )
        return EXIT_OK
    if job.exception is not None:
        state = "is paused" if job.status == "paused" else "failed"
        complain(job.exception, prefix=f"Install {job.id} {state}")
    else:
        typer.echo(f"Install {job.id} is {job.status.value}.", err=True)
    return EXIT_FAILED


def how_to_go_on(id: int) -> str:
    """What a person who left an install can do."""
    return (
        f"Detached; install {id} goes on.\n"
        f"  watch it:  modelkeep installs watch {id}\n"
        f"  cancel it: modelkeep installs cancel {id}"
    )
