"""Whether what a plan would bring is there already: as a model, or file by file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelkeep.exceptions import ModelkeepError, RootMismatchException
from modelkeep_common.urls import shown

from .. import files
from ..domain.jobs import Reuse
from ..domain.plans import Plan, PlannedFile
from ..domain.ports import RecordFile, StoredModel
from ..run import InstalledAlready, Run
from .known import is_whole, path_of

#: So many of the files are looked for in the records, the largest first.
_MAX_LOOKED_FOR = 64

_Found = Mapping[str, tuple[StoredModel, Sequence[RecordFile]]]


async def same_plan(run: Run) -> None:
    """Looks before a byte is fetched; notes in the plan which files can be copied from a model that is here.

    Raises:
        InstalledAlready: A model from this source has the files, or one from elsewhere that is taken.
    """
    job, plan = run.job, run.job.plan
    assert plan is not None
    if job.ordering:
        return  # a download may be there, which was asked for with what was known then
    # a repository that was renamed since is told by its new name, and may be recorded under the old one
    names = dict.fromkeys((plan.source, job.source.text))
    found = await _look(run, plan, names)
    elsewhere = []
    for model, listed in found.values():
        from_here = model.source in map(shown, names)
        if not brings(plan, listed, proven=not from_here) or not await run.ask(partial(is_whole, run, model)):
            continue
        if job.reuse is Reuse.SAME_CONTENT or (from_here and job.reuse is Reuse.SAME_SOURCE):
            raise InstalledAlready(model)
        elsewhere.append(model.key)
    copies = await run.in_thread(run.tools.quick, partial(_copies, run, plan, found))
    with_copies = tuple(
        replace(file, local_copy=copies.get(file.sha256, file.cached_path)) if file.sha256 else file
        for file in plan.files
    )
    run.job = replace(job, same_content=tuple(elsewhere), plan=replace(plan, files=with_copies))


async def _look(run: Run, plan: Plan, names: Iterable[str]) -> _Found:
    """The models of a source of these names, and those that have one of its files, each with its files."""
    records = run.tools.records
    hashed = sorted((file for file in plan.files if file.sha256), key=lambda file: -(file.size_bytes or 0))
    models: list[StoredModel] = []
    for name in names:
        models += await run.ask(partial(records.find, source=name))
    for sha256 in list(dict.fromkeys(file.sha256 for file in hashed))[:_MAX_LOOKED_FOR]:
        models += await run.ask(partial(records.find, hash=sha256))
    found: dict[str, tuple[StoredModel, Sequence[RecordFile]]] = {}
    for model in models:
        if model.key not in (run.job.key, *found):
            found[model.key] = (model, await run.ask(partial(records.files, model.key)))
    return found


def brings(plan: Plan, listed: Sequence[RecordFile], *, proven: bool) -> bool:
    """Whether a record's files are those of a plan, by path, size and SHA-256 as far as both are known.

    Args:
        plan: What would be fetched.
        listed: The record's files. A single one may be called otherwise, where the SHA-256 tells.
        proven: Whether each file's SHA-256 must be known, and equal.
    """
    ours = {file.path: file for file in plan.files if not _is_hidden(file.path)}
    theirs = {file.path: file for file in listed}
    if not plan.is_folder and len(ours) == len(theirs) == 1:
        [mine], [other] = ours.values(), theirs.values()
        if mine.sha256 and mine.sha256 == other.sha256:
            return True
        ours, theirs = {plan.file_name: mine}, {other.path: other}
    if not ours or ours.keys() != theirs.keys():
        return False
    return all(_is_equal(file, theirs[path], proven=proven) for path, file in ours.items())


def _is_equal(mine: PlannedFile, other: RecordFile, *, proven: bool) -> bool:
    if mine.size_bytes not in (None, other.size_bytes):
        return False
    if mine.sha256 and other.sha256:
        return mine.sha256 == other.sha256
    return not proven


def _is_hidden(path: str) -> bool:
    """Whether a record does not list it, as nothing that is hidden."""
    return any(part.startswith(".") for part in path.split("/"))


def _copies(run: Run, plan: Plan, found: _Found) -> dict[str, str]:
    """SHA-256 → a file of a model that has it, and is as it was recorded."""
    wanted = {file.sha256 for file in plan.files if file.sha256}
    copies: dict[str, str] = {}
    for model, listed in found.values():
        try:
            location = run.tools.roots.locate(model.path, model.root_id)
        except RootMismatchException:
            continue
        for file in listed:
            path = path_of(location, file.path)
            if file.sha256 in wanted and file.sha256 not in copies and _is_as_recorded(path, file):
                copies[file.sha256] = str(path)
    return copies


def _is_as_recorded(path: Path, file: RecordFile) -> bool:
    try:
        size, when = files.file_facts(path)
    except ModelkeepError:
        return False
    return size == file.size_bytes and files.is_same_time(when, file.modify_time)
