"""Moves of a local model by processes that are killed at every change of the file system, one after another.

    python -m support.movekills FOLDER link|copy

Each point has a folder of its own, ``FOLDER/000`` and on, with what its process left; the last is not killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from modelkeep_install import files
from modelkeep_install.domain.jobs import Job, Source, SourceKind
from support.faketime import run
from support.installrun import Bench, Store
from support.installs import small_lora
from support.modelshapes import write_vae_folder

_JOBS: TypeAdapter[Job] = TypeAdapter(Job)
#: What gives names to files, and takes them away.
_CHANGES = ("link", "unlink", "rename", "rmdir")


class DurableStore(Store):
    """Keeps the job in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    async def save(self, job: Job, **more: Any) -> Job:
        stored = await super().save(job, **more)
        part = self._path.with_suffix(".part")
        part.write_bytes(_JOBS.dump_json(stored))
        shutil.move(part, self._path)
        return stored


def bench_in(folder: Path, way: str) -> Bench:
    """The job in a folder as it was stored last, and what it works with.

    It moves a folder by links, and a single file, which is much smaller, by a copy.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    store = DurableStore(store_path(folder))
    bench = Bench(folder, "move")
    bench.source.unlink()
    source = folder / "import" / "model"
    if made and way == "link":
        write_vae_folder(source)
    elif made:
        source.mkdir()
        small_lora(source / "ink.safetensors")
    if made:
        (source / ".notes").write_text("of somebody")
    source = source if way == "link" else source / "ink.safetensors"
    job = replace(bench.job, source=Source(SourceKind.PATH, str(source)), local_path=str(source))
    if store_path(folder).exists():
        job = _JOBS.validate_json(store_path(folder).read_bytes())
    store.jobs[1] = job
    bench.store, bench.source = store, source
    return bench


def store_path(folder: Path) -> Path:
    """Where the job is kept."""
    return folder / "job.json"


def main(folder: Path, way: str) -> None:
    """Kills one process after another until one comes to the end."""
    if way == "copy":
        files._link = lambda descriptor, target: False  # as between file systems
    os.fsync = lambda fd: None  # a kill takes nothing from the system's own memory
    for point in range(1000):
        child = os.fork()
        if not child:
            bench = bench_in(folder / f"{point:03}", way)
            _die_at(point // 2, after=point % 2 == 1)
            run(bench.finish())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            print(json.dumps({"points": point}))
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


def _die_at(number: int, *, after: bool) -> None:
    """Kills this process around a change of the file system, counted from 0."""
    count = -1

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = count
            try:
                return change(*arguments, **named)
            finally:
                if mine == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        return do

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
