"""Following jobs: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
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


#: On a terminal narrower than this the bar makes room for what is said.
_NARROW = 60


class Bar:
    """Shows how far a job is, and why it waits."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._said = ""
        self._why = ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[Bar]:
        """On a terminal the bar is drawn inside."""
        if not sys.stderr.isatty():
            yield self
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        terminal = console(stderr=True)
        columns: list[Any] = [TextColumn("{task.description}"), DownloadColumn()]
        if terminal.width >= _NARROW:
            columns = [columns[0], BarColumn(), columns[1], TransferSpeedColumn()]
        columns.append(TextColumn("{task.fields[left]}", style="yellow"))
        with Progress(*columns, console=terminal, transient=True) as self._progress:
            self._task = self._progress.add_task("", total=None, left="")
            yield self

    def update(self, text: str, done: int, total: int, why: str = "", until: float | None = None) -> None:
        """Show a state, and bytes.

        Args:
            text: The state.
            done, total: Bytes; a total of 0 is not known.
            why: Why the job waits; "" while it goes on.
            until: When it goes on by itself, in seconds since the epoch.
        """
        if self._progress is not None:
            if why and why != self._why:
                self._progress.console.print(why)
            left = _Left(until if why else None)
            self._progress.update(
                self._task, description=text, completed=done, total=total or None, left=left
            )
        else:
            line = text if not why else f"{text}: {why}" + (f"; next try at {_clock(until)}" if until else "")
            if line != self._said:
                typer.echo(line, err=True)
            self._said = line
        self._why = why


class _Left:
    """How long a job still waits, as of when it is drawn."""

    def __init__(self, until: float | None) -> None:
        self._until = until

    def __str__(self) -> str:
        left = self._until - time.time() if self._until is not None else 0
        return "" if self._until is None else f"next try in {left:.0f} s" if left >= 1 else "trying again"


def waits(message: Any) -> tuple[str, float | None]:
    """(why a job of either kind waits, when it goes on by itself), for people; ("", None) if it does not."""
    if not message.HasField("error") or not message.error.HasField("retry_time"):
        return "", None
    from modelkeep.install.v1 import install_pb2

    error, attempt = message.error, message.attempt
    if hasattr(message, "download_attempt"):
        # another peer may be waited for, after the download
        attempt = message.download_attempt if message.stage == install_pb2.INSTALL_STAGE_DOWNLOADING else 0
    failed = f"try {attempt} failed: " if attempt else ""
    return f"{failed}{visible(error.message)} [{error.reason}]", error.retry_time.ToNanoseconds() / 1e9


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


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
                    bar.update(
                        f"{name}: {state(last)}", moved.bytes_done, moved.bytes_total, *waits(last.message)
                    )
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
                text = "pruned"
                if event.put is not None:
                    text = ": ".join(filter(None, (state(event.put), waits(event.put.message)[0])))
                if said.get(event.id) != text:
                    source = event.put.source if event.put is not None else ""
                    print(f"{event.id}\t{text}\t{visible(source)}", flush=True)
                said[event.id] = text
