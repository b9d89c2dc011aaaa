"""The record of an install: what was probed, with what the caller says in its place."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import InvalidModelException

from ..probe import ProbeResult
from ..probe.result import UNKNOWN
from .jobs import Job, Overrides, SourceKind
from .ports import ModelDraft


def check_known(probe: ProbeResult, path: Path) -> None:
    """A model of unknown kind is not registered, unless the caller said what it is, which the probe heeds.

    Raises:
        InvalidModelException: It is unknown; the text says what was looked for and how to override.
    """
    told = {
        "type": probe.known,
        "base": probe.base != UNKNOWN or bool(probe.match.possible_bases),
        "format": probe.format != UNKNOWN,
    }
    missing = [name for name, known in told.items() if not known]
    if not missing:
        return
    why = "; ".join(f"{item.candidate}: {item.why}" for item in probe.match.ruled_out)
    raise InvalidModelException(
        f"What {path.name} is cannot be told ({why or 'nothing fits'}). "
        f"If you know it, install it again with {' and '.join(missing)} given.",
        metadata={"path": str(path), "detail": "unknown kind of model", "missing": ",".join(missing)},
    )


def stored_path(location: Path, models_dir: Path, root_id: str) -> tuple[str, str]:
    """(path, root_id) for the record: relative inside models_dir, absolute elsewhere."""
    if location.is_relative_to(models_dir):
        return location.relative_to(models_dir).as_posix(), root_id
    return str(location), ""


def draft_of(
    probe: ProbeResult,
    overrides: Overrides,
    *,
    key: str = "",
    path: str = "",
    root_id: str = "",
    hash_: str = "",
    source: str = "",
    source_type: str = "path",
) -> ModelDraft:
    """The record that a probe and the caller's overrides make."""
    match = probe.match
    found = ModelDraft(
        key=key,
        name=probe.name,
        type=match.type,
        format=match.format,
        base=match.base,
        compatible_bases=match.compatible_bases,
        path=path,
        root_id=root_id,
        size_bytes=probe.size_bytes,
        hash=hash_,
        description=probe.description,
        source=source,
        source_type=source_type,
        variant=match.variant,
        prediction_type=match.prediction_type,
        upcast_attention=match.upcast_attention,
        submodels=match.submodels,
        scaling_factor=match.scaling_factor,
        rank=match.rank or None,
        key_layout=match.key_layout,
    )
    draft = replace(found, **overrides.told, told=tuple(overrides.told))
    others = tuple(base for base in draft.compatible_bases if base != draft.base)
    return replace(draft, compatible_bases=others)


def draft_of_job(job: Job, models_dir: Path, root_id: str) -> ModelDraft:
    """The record of a job that has been probed, hashed and placed."""
    assert job.probe is not None
    path, root = stored_path(Path(job.local_path), models_dir, root_id)
    return draft_of(
        job.probe,
        job.overrides,
        key=job.key,
        path=path,
        root_id=root,
        hash_=job.hash,
        source=job.source.text,
        source_type="path" if job.source.kind is SourceKind.PATH else "url",
    )


def name_of_source(job: Job) -> str:
    """The name that the model's file or folder keeps."""
    return os.path.basename(job.staged_path or job.source.text)
