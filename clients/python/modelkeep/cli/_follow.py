"""Following jobs: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from modelkeep.cli._output import as_json, console, print_json, visible
from modelkeep.exceptions import ModelkeepError, UnknownJobIDException

if TYPE_CHECKING:
    from modelkeep.client import WatchFrame


class _Job(Protocol):
    """What both kinds of jobs have in common."""

    source: Any

    @property
    def message(self) -> Any: ...


J = TypeVar("J", bound=_Job)


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


def follow(
    frames: Generator[WatchFrame[J]],
    id: int,
    noun: str,
    state: Callable[[J], str],
    is_over: Callable[[J], bool],
    *,
    as_lines: bool = False,
) -> J:
    """Show a job until it is over; answers with its last state.

    Args:
        frames: A watch of this job alone.
        id: Its number.
        noun: What it is, "install".
        state: What it does now, for people.
        is_over: Whether there is nothing more to wait for.
        as_lines: Print each change as a line of JSON in place of a bar.

    Raises:
        UnknownJobIDException: There is no such job.
    """
    last: J | None = None
    name = f"{noun.capitalize()} {id}"
    with Bar().shown() as bar, contextlib.closing(frames):
        for frame in frames:
            for event in frame.events:
                last = event.put
                if last is None:
                    raise UnknownJobIDException(f"{name} was pruned.", metadata={"id": str(id)})
                if as_lines:
                    print_json(as_json(last.message), lines=True)
                else:
                    moved = last.message.progress
                    bar.update(f"{name}: {state(last)}", moved.bytes_done, moved.bytes_total)
            if last is not None and is_over(last):
                return last
            if frame.snapshot_complete and last is None:
                raise UnknownJobIDException(f"There is no {noun} {id}.", metadata={"id": str(id)})
    raise ModelkeepError("The watch ended.")


def follow_all(
    frames: Generator[WatchFrame[J]], state: Callable[[J], str], *, as_lines: bool = False
) -> None:
    """Print a line whenever a job of a watch changes its state; as JSON whenever anything changes."""
    said: dict[int, str] = {}
    with contextlib.closing(frames):
        for frame in frames:
            for event in frame.events:
                if as_lines:
                    line = {"removed_id": str(event.id)} if event.put is None else as_json(event.put.message)
                    print_json(line, lines=True)
                    continue
                text = state(event.put) if event.put is not None else "pruned"
                if said.get(event.id) != text:
                    source = event.put.source if event.put is not None else ""
                    print(f"{event.id}\t{text}\t{visible(source)}", flush=True)
                said[event.id] = text
