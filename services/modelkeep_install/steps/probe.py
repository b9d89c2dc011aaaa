"""What a model is, by its headers and configs, and how it is told that it changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .. import files
from ..domain.draft import check_known
from ..domain.jobs import FileFacts, SourceKind
from ..hashing import sampled_hash_of
from ..probe import ProbeResult, probe
from ..run import Run


def identify(run: Run) -> None:
    """Probes what was downloaded, or the source where it lies."""
    run.job = replace(run.job, probe=_look(run, Path(run.job.staged_path or run.job.source.text)))


def take_hash(run: Run) -> None:
    """The sampled hash and the facts of every file."""
    job, opener = run.job, run.tools.roots.open
    path = Path(job.staged_path or job.source.text)
    if job.staged_path and job.source.kind is SourceKind.PATH:
        # the source may have changed since it was probed: the record tells of what was copied
        job = replace(job, probe=_look(run, path, named=Path(job.source.text)))
    assert job.probe is not None
    names = list(job.probe.files)
    if path.is_dir():
        facts = tuple(FileFacts(name, *files.file_facts(path / name)) for name in names)
    else:
        facts = (FileFacts(path.name, *files.file_facts(path)),)
    hash_ = sampled_hash_of(path, names, opener)
    if {file.path: file.size_bytes for file in facts} != dict(job.probe.files):
        raise files.source_changed(path)
    run.job = replace(job, hash=hash_, files=facts)


def _look(run: Run, path: Path, *, named: Path | None = None) -> ProbeResult:
    roots, plan = run.tools.roots, run.job.plan
    said = plan.metadata.base if plan is not None else ""
    found = probe(path, run.job.hints, opener=roots.open, check=roots.readable, named=named, said_base=said)
    check_known(found, named or path)
    return found
