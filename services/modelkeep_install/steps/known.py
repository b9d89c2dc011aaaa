"""Whether a model is installed already: from the same source, or with the same content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelkeep.exceptions import DuplicatePathException, ModelkeepError, RootMismatchException
from modelkeep_common.urls import may_hide_objects

from .. import files
from ..domain.draft import digests_of, stored_path
from ..domain.jobs import Reuse, SourceKind
from ..domain.ports import RecordFile, StoredModel
from ..hashing import digest_file, sampled_hash_of
from ..probe import probe
from ..run import InstalledAlready, Run


async def same_source(run: Run) -> None:
    """Looks before anything is fetched or copied.

    Raises:
        InstalledAlready: A model from this source is there, with its files as they were.
    """
    job = run.job
    if job.reuse is Reuse.NEVER:
        return
    for model in await _from_source(run):
        if await run.ask(partial(is_whole, run, model)) and await _is_source_of(run, model):
            raise InstalledAlready(model)
    if job.expected_sha256:
        await _look_for_content(run, job.expected_sha256)


async def check_path(run: Run) -> None:
    """DuplicatePathException if another record has the path that is to be registered."""
    for model in await _from_source(run) if run.job.inplace else ():
        raise path_taken(run.job.source.text, model.key)


def path_taken(path: str, key: str) -> DuplicatePathException:
    """The error of a path that has a record, for other content or for a second model."""
    remedy = f"Have it copied, or uninstall {key}, keeping its files, then install again."
    return DuplicatePathException(
        f"{path} is registered as {key} already, and a path has one record. {remedy}",
        metadata={"path": path, "key": key},
        remedy=remedy,
    )


async def same_content(run: Run) -> None:
    """Looks for the content of what was hashed: the job names the models that have it.

    Raises:
        InstalledAlready: The caller takes one of these, or it is from the very source.
    """
    await _look_for_content(run, run.job.hash)


async def _from_source(run: Run) -> list[StoredModel]:
    """The records that say that they are from the job's source: where it stays, those at its path."""
    job, roots, records = run.job, run.tools.roots, run.tools.records
    if job.source.kind is SourceKind.URL and may_hide_objects(job.source.text):
        return []  # another address may be shown like this one
    find = partial(records.find, source=job.source.text)
    if job.inplace:
        paths = await run.in_thread(run.tools.quick, partial(_names_of, run))
        find = partial(records.find, paths=paths, root_id=roots.root_id)
    return [model for model in await run.ask(find) if model.key != job.key]


async def _is_source_of(run: Run, model: StoredModel) -> bool:
    """Whether what the source has now is what this model was made of."""
    job = run.job
    if job.source.kind is SourceKind.URL:
        listed = await run.ask(partial(run.tools.records.files, model.key))
        return not job.expected_sha256 or [file.sha256 for file in listed] == [job.expected_sha256]
    return await run.in_thread(run.tools.quick, partial(_is_made_of_path, run, model))


def _names_of(run: Run) -> list[str]:
    """The paths that a record of the job's local source may have."""
    models_dir, source = run.tools.roots.models_dir, run.job.source.text
    names = {source, os.path.realpath(source)}
    return sorted(names | {stored_path(Path(name), models_dir, "")[0] for name in names})


def _is_made_of_path(run: Run, model: StoredModel) -> bool:
    roots, path = run.tools.roots, Path(run.job.source.text)
    here = os.path.realpath(roots.locate(model.path, model.root_id)) == os.path.realpath(path)
    if here or run.job.inplace:
        return here and run.job.inplace  # else a copy is wanted of what is registered where it lies
    found = probe(path, run.job.hints, opener=roots.open, check=roots.readable)
    return sampled_hash_of(path, list(found.files), roots.open) == model.original_hash


async def _look_for_content(run: Run, digest: str) -> None:
    job = run.job
    found, missing = [], []
    for model in await run.ask(partial(run.tools.records.find, hash=digest)):
        if model.key == job.key or not await run.ask(partial(_may_be_equal, run, model)):
            continue
        whole = await run.ask(partial(is_whole, run, model))
        if await run.in_thread(run.tools.quick, partial(_is_here, run, model)):
            # one that was touched, or put back, is hashed anew: with that the record gets its time
            raise InstalledAlready(model, None if whole else digests_of(job, model.key))
        if not whole:
            if await run.in_thread(run.tools.quick, partial(_is_gone, run, model)):
                missing.append(model.key)
            continue
        found.append(model.key)
        wanted = job.reuse is Reuse.SAME_CONTENT or (
            job.reuse is Reuse.SAME_SOURCE
            and job.source.kind is not SourceKind.PATH
            and model.source == job.record_source
        )
        if wanted and await _is_equal(run, model):
            raise InstalledAlready(model)
    run.job = replace(run.job, same_content=tuple(found), missing_content=tuple(missing))


async def is_whole(run: Run, model: StoredModel) -> bool:
    """Whether a model's files are all there, as they were recorded."""
    listed = await run.tools.records.files(model.key)
    return await run.in_thread(run.tools.quick, partial(_as_recorded, run, model, listed))


def _is_here(run: Run, model: StoredModel) -> bool:
    """Whether a record has, by another path, the very place that is to be registered."""
    job, location = run.job, run.tools.roots.locate(model.path, model.root_id)
    local = job.source.kind is SourceKind.PATH and job.inplace and job.reuse is not Reuse.NEVER
    return local and os.path.realpath(location) == os.path.realpath(job.source.text)


def _is_gone(run: Run, model: StoredModel) -> bool:
    try:
        return not os.path.lexists(run.tools.roots.locate(model.path, model.root_id))
    except RootMismatchException:
        return False  # it may be there, elsewhere


def _as_recorded(run: Run, model: StoredModel, listed: Sequence[RecordFile]) -> bool:
    try:
        location = run.tools.roots.locate(model.path, model.root_id)
        facts = [(file, files.file_facts(path_of(location, file.path))) for file in listed]
    except ModelkeepError:
        return False
    return bool(facts) and all(
        (file.size_bytes, True) == (size, files.is_same_time(file.modify_time, when))
        for file, (size, when) in facts
    )


def path_of(location: Path, name: str) -> Path:
    """Where a listed file lies; a model that is one file lists its name."""
    return location if name == location.name and not location.is_dir() else location / name


async def _may_be_equal(run: Run, model: StoredModel) -> bool:
    """Whether names, sizes and the digests that are known are those of the job's files."""
    listed = await run.tools.records.files(model.key)
    job = run.job
    if not job.files:  # before a download: its hash was said
        return [file.sha256 for file in listed] == [job.expected_sha256]
    theirs = {file.path: file for file in listed}
    ours = {file.path: file.size_bytes for file in job.files}
    if len(ours) == len(theirs) == 1:  # whatever it is called
        [mine], [other] = ours.values(), theirs.values()
        return mine == other.size_bytes and job.sha256 in ("", other.sha256 or job.sha256)
    return ours == {name: file.size_bytes for name, file in theirs.items()}


async def _is_equal(run: Run, model: StoredModel) -> bool:
    """Whether SHA-256 proves that every file is the same; what has none yet is read."""
    job, roots = run.job, run.tools.roots
    if not job.files:
        return True
    listed = {file.path: file for file in await run.ask(partial(run.tools.records.files, model.key))}
    location = roots.locate(model.path, model.root_id)
    ours = Path(job.staged_path or job.source.text)

    def digest(path: Path) -> str:
        return digest_file(path, roots.open, stop=lambda: run.must_stop).sha256

    def compare() -> bool:
        single = len(listed) == len(job.files) == 1
        for file in job.files:
            other = next(iter(listed.values())) if single else listed[file.path]
            mine = job.sha256 or digest(ours if single else ours / file.path)
            if mine != (other.sha256 or digest(path_of(location, other.path))):
                return False
        return True

    try:
        return await run.in_thread(run.tools.copies, compare)
    except (ModelkeepError, OSError, RootMismatchException):
        return False  # it cannot be read: then it is no model to end with
