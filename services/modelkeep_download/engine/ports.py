"""What the scheduler needs of the world: jobs that are kept, tries that run, and time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from modelkeep_download.domain.job import Job
from modelkeep_download.domain.ranges import ByteRanges
from modelkeep_download.engine.attempt import Attempt

T = TypeVar("T")


class Jobs(Protocol):
    """The jobs' rows. Every method may raise DiskFullException or ServerDrainingException."""

    async def get(self, job_id: int) -> Job:
        """One job; UnknownJobIDException if there is none."""

    async def unfinished(self) -> list[Job]:
        """The jobs that have not ended, by id."""

    async def staging_folders(self) -> set[str]:
        """The staging folders that jobs know of."""

    async def change(self, job_id: int, transition: Callable[[Job], Job], *, synced: bool = True) -> Job:
        """Apply a transition; without `synced` it need not outlive a power cut."""

    async def change_all(self, ids: Sequence[int], transition: Callable[[Job], Job]) -> dict[int, Job]:
        """Apply a transition to all of these, or to none."""

    async def begin(self, job_id: int, *, has_secrets: bool) -> Job:
        """Give a job its slot and, off the queue, its number; see `begun`."""


class Tries(Protocol):
    """Runs tries, and looks after what they have left in the file system."""

    async def run(self, attempt: Attempt) -> None:
        """Carry one try through to its delivered file.

        Raises:
            TransientError, StartOver, ModelkeepError, Stopped, OSError: It ended otherwise.
        """

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry work out on the event loop, for the thread of a try, which waits for it."""

    async def finished(self, jobs: Sequence[Job]) -> set[int]:
        """Those whose file is at its destination though their rows do not say so, their delivery ended."""

    async def recalled(self, jobs: Sequence[Job]) -> Mapping[int, ByteRanges]:
        """By job id: what their partial files have, for those whose files tell more than their rows."""

    async def discard(self, staging: str) -> None:
        """Remove a staging folder, if there is one."""

    async def sweep(self, known: Collection[str]) -> None:
        """Remove the staging folders that no job knows of."""

    async def with_room(
        self, jobs: Sequence[Job], reserve: int, to_come: Callable[[int], int]
    ) -> Sequence[int]:
        """Those that have room for the bytes that they lack, each beside the ones before it.

        Args:
            jobs: Jobs with a partial file.
            reserve: Bytes to leave free on every file system.
            to_come: Bytes that others will still write to a file system, by its device; any thread may ask.
        """

    def close(self) -> None:
        """No try is run any more."""


class Timer(Protocol):
    """What will be called."""

    def cancel(self) -> None:
        """It will not."""


class Clock(Protocol):
    """Time, and timers on the event loop."""

    def time(self) -> float:
        """Seconds since 1970."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call back after so long."""
