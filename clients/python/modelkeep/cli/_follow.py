"""Following one job until it is over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from modelkeep.cli._bar import Bar, FileStanding, Standing
from modelkeep.cli._output import as_json, away, print_data
from modelkeep.cli._terminal import visible
from modelkeep.exceptions import ModelkeepError, UnknownJobIDException

if TYPE_CHECKING:
    from modelkeep.client import WatchFrame
    from modelkeep.server.v1 import job_pb2


class _Job(Protocol):
    """What both kinds of jobs have in common."""

    source: Any

    @property
    def message(self) -> Any: ...


J = TypeVar("J", bound=_Job)


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


def standing(text: str, moved: job_pb2.Progress, why: str = "", until: float | None = None) -> Standing:
    """How far something is whose progress the API tells, and why it waits."""
    files = [FileStanding(one.path, one.bytes_done, one.bytes_total) for one in moved.files]
    several = files if len(files) > 1 else ()
    file = "" if several else next((one.path for one in files if one.done < one.total), "")
    return Standing(
        text,
        moved.bytes_done,
        moved.bytes_total,
        moved.bytes_per_second,
        file=file,
        why=why,
        until=until,
        files=several,
    )


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
        as_lines: Print each change for a program, in place of a bar.

    Raises:
        UnknownJobIDException: There is no such job.
    """
    last: J | None = None
    name = f"{noun.capitalize()} {id}"
    with Bar().shown() as bar, contextlib.closing(frames):
        for frame in frames:
            if frame.away_s is not None and not as_lines:
                bar.update(Standing(f"{name}: {away(frame.away_s)}"))
            for event in frame.events:
                last = event.put
                if last is None:
                    raise UnknownJobIDException(f"{name} was pruned.", metadata={"id": str(id)})
                if as_lines:
                    print_data(as_json(last.message), lines=True)
                else:
                    text, message = f"{name}: {state(last)}", last.message
                    bar.update(standing(text, message.progress, *waits(message)))
            if last is not None and is_over(last):
                return last
            if frame.snapshot_complete and last is None:
                raise UnknownJobIDException(f"There is no {noun} {id}.", metadata={"id": str(id)})
    raise ModelkeepError("The watch ended.")
