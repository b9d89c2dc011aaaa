"""A local model that is moved: into models_dir by links or a copy, and from its place once it is registered.

Until the record is there the source is as it was, and what is staged is another name of its files, or a copy:
whatever ends the job before leaves the source, and whatever stops it after that finds the rest to remove.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelkeep.exceptions import (
    DuplicatePathException,
    FieldInvalidException,
    FieldViolation,
    ForbiddenPathException,
    ModelkeepError,
)

from .. import files
from ..domain.jobs import FileFacts, Job
from ..domain.ports import Removal
from ..domain.roots import ModelRoots
from ..domain.system_errors import reading
from ..hashing import digest_file
from ..run import Run
from . import place

_log = logging.getLogger(__name__)


def check_movable(path: Path, roots: ModelRoots) -> None:
    """Refuses what is never moved, whatever it holds.

    Raises:
        FieldInvalidException: It is a link, a root or above one, or lies among the installed models.
    """
    real = Path(os.path.realpath(path))
    if path.is_symlink():
        raise _cannot_move(path, "is a link: name what it leads to")
    if roots.is_root(real) or roots.is_at_or_above(real):
        raise _cannot_move(path, "is one of the service's own folders")
    if real.is_relative_to(roots.models_dir):
        raise _cannot_move(path, "lies among the installed models")


async def check_unlisted(run: Run) -> None:
    """DuplicatePathException if a record lists one of the files: it would be left without."""
    removal = await run.in_thread(run.tools.quick, partial(_removal_of, run.job))
    found = await run.ask(partial(run.tools.spare, removal))
    for path, keys in found.shared:
        remedy = f"Have it copied, or uninstall {keys[0]}, keeping its files, then install again."
        raise DuplicatePathException(
            f"{path} is of the model {keys[0]}, which would be left without it: nothing was moved. {remedy}",
            metadata={"path": path, "key": keys[0]},
            remedy=remedy,
        )


def take(run: Run) -> None:
    """Stages the files: as links where the file system takes them, else as copies that are compared."""
    job, roots = run.job, run.tools.roots
    facts = [_fact(path, name) for path, name in _files_of(job)]
    for path, _ in _files_of(job):
        if not os.access(path.parent, os.W_OK):
            remedy = "Let the user that runs InstallService write there, or have it copied."
            raise ForbiddenPathException(
                f"{path} cannot be moved: its folder cannot be written. {remedy}",
                metadata={"path": str(path), "setting": "", "detail": "read-only", "remedy": remedy},
            )
    place.copy(run, link=True)
    staged = Path(run.job.staged_path)
    try:
        for path, name in _files_of(job):
            copy = staged if path == Path(job.source.text) else staged / name
            if not os.path.samefile(path, copy):
                _compare(run, path, copy)
        if facts != [_fact(path, name) for path, name in _files_of(job)]:
            raise files.source_changed(Path(job.source.text))
    except BaseException:
        files.remove_tree(roots.staging(job.staging))
        raise
    run.job = replace(run.job, moved=tuple(facts))


async def leave(run: Run) -> None:
    """Removes the source of a model that is registered, and the folders that this empties."""
    removal = await asyncio.to_thread(_removal_of, run.job)
    spared = await run.ask(partial(run.tools.spare, removal), ending=True)
    await asyncio.to_thread(_remove, run.job, run.tools.roots, spared)


def is_a_rename(job: Job, roots: ModelRoots) -> bool:
    """Whether a move takes no room, since source and models_dir are on one file system."""
    try:
        return job.move and os.stat(job.source.text).st_dev == os.stat(roots.models_dir).st_dev
    except OSError:
        return False


def _remove(job: Job, roots: ModelRoots, spared: Removal) -> None:
    source, target = Path(job.source.text), Path(job.local_path)
    facts = {fact.path: fact for fact in job.moved}
    for path, name in _files_of(job):
        installed = target if path == source else target / name
        if str(path) not in spared.paths or not installed.is_file():
            continue  # another record has it by now
        try:
            if _fact(path, name) == facts[name]:
                roots.unlink(path)
            else:
                _log.warning("%s stays: it changed since it was moved", path)
        except (OSError, ModelkeepError) as error:
            if os.path.lexists(path):
                _log.warning("%s stays: %s", path, error)
    if not os.path.lexists(source) or source.is_dir():
        folders = {parent for path, _ in _files_of(job) for parent in path.parents}
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            if folder.is_relative_to(source):
                files.remove_empty(folder, above=source.parent)
    files.make_read_only(target)


def _files_of(job: Job) -> Iterator[tuple[Path, str]]:
    """(where it lies, what the model calls it) of each file of a source that was probed."""
    assert job.probe is not None
    source = Path(job.source.text)
    for name in job.probe.files:
        # a model that is one file lists its name, and may be moved already
        single = len(job.probe.files) == 1 and name == source.name and not source.is_dir()
        yield (source if single else source / name), name


def _removal_of(job: Job) -> Removal:
    source = Path(job.source.text)
    return Removal(job.key, str(source.parent), tuple(str(path) for path, _ in _files_of(job)))


def _fact(path: Path, name: str) -> FileFacts:
    """Size and time of a file that is moved.

    Raises:
        FieldInvalidException: It is a link.
        ModelkeepError: It cannot be looked at; see ``system_errors``.
    """
    with reading(path):
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise _cannot_move(path, "is a link, which would leave behind what it leads to")
    return FileFacts(name, *files.file_facts(path))


def _compare(run: Run, source: Path, copy: Path) -> None:
    """SourceChangedException unless every byte of a copy is the source's."""
    digests = [
        digest_file(path, run.tools.roots.open, stop=lambda: run.must_stop).sha256 for path in (source, copy)
    ]
    if digests[0] != digests[1]:
        raise files.source_changed(source)


def _cannot_move(path: Path, why: str) -> FieldInvalidException:
    return FieldInvalidException(
        f"{path} {why}, and is not moved.",
        violations=[FieldViolation("move", why)],
        remedy="Leave `move` out, so that it is copied, or have it registered where it is.",
    )
