"""Where a model gets its place: copied into the staging folder, and given its final name there."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import DiskFullException

from .. import files
from ..domain.jobs import Progress
from ..run import Run

#: Progress is told at most so often, in seconds.
_TELL_EVERY_S = 0.25


def copy(run: Run, *, link: bool = False) -> None:
    """Copies a local model into the staging folder, whole and durable, or leaves nothing there.

    Args:
        run: The run.
        link: Make other names of the files in place of copies, where the file system takes them.
    """
    job, tools = run.job, run.tools
    assert job.probe is not None
    total = job.probe.size_bytes
    staging = tools.roots.staging(job.staging)
    begun = last = time.monotonic()

    def tell(count: int) -> None:
        nonlocal last
        if time.monotonic() - last > _TELL_EVERY_S:
            last = time.monotonic()
            run.progressed(Progress(how.done_bytes, total, int(how.done_bytes / (last - begun))))

    try:
        with tools.room.claim() as claim:
            how = files.Copying(tools.roots.open, tell, lambda: run.must_stop, claim, total, link)
            try:
                staged = files.copy_model(Path(job.source.text), job.probe.files, staging, how)
            except DiskFullException:
                how.ask_for_room()  # says how much is missing
                raise
    except BaseException:
        files.remove_tree(staging)  # before the end is noted, which may need the room
        raise
    copied = Progress(how.done_bytes, how.done_bytes)
    run.job = replace(run.job, staged_path=str(staged), progress=copied)


def check_room(run: Run, *, is_free: bool) -> None:
    """DiskFullException if a copy of a local model does not fit; notes how many bytes it takes."""
    assert run.job.probe is not None
    total = 0 if is_free else run.job.probe.size_bytes
    run.job = replace(run.job, progress=Progress(0, total))
    if total:
        with run.tools.room.claim() as claim:
            claim.want(total)


def move(run: Run) -> None:
    """Gives what is staged its final name, by one rename."""
    staged = Path(run.job.staged_path)
    target = run.tools.roots.home(run.job.key) / staged.name
    files.place(staged, target, read_only=not run.job.move)
    run.job = replace(run.job, local_path=str(target))
