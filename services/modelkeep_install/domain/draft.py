"""The record of an install: what was probed, with what the caller says in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelkeep.configs.wire import assemble
from modelkeep.exceptions import FieldViolation, InvalidModelConfigException, InvalidModelException
from modelkeep.model.v1 import model_pb2

from ..probe.result import UNKNOWN, ProbeResult
from .jobs import Job, Overrides, SourceKind
from .plans import Hub, Metadata
from .ports import DigestWork, RecordFile

_SOURCE_TYPES: Mapping[str, str] = {
    SourceKind.PATH: "path",
    SourceKind.URL: "url",
    Hub.HUGGING_FACE: "hf_repo_id",
    Hub.CIVITAI: "civitai",
    Hub.OTHER: "url",
}


def check_known(probe: ProbeResult, path: Path) -> None:
    """A model of unknown kind is not registered, unless the caller said what it is, which the probe heeds.

    Raises:
        InvalidModelException: It is unknown; the text says what was looked for and how to override.
    """
    told = {
        "type": probe.known,
        "base": probe.base != UNKNOWN or bool(probe.match.possible_bases),
    }
    missing = [name for name, known in told.items() if not known]
    if not missing:
        return
    near = [item for item in probe.match.ruled_out if item.near]
    remedy = ""
    if near:
        message = f"{path.name} cannot be installed as it is: {'; '.join(item.why for item in near)}."
        remedy = near[0].remedy
    else:
        why = "; ".join(f"{item.candidate}: {item.why}" for item in probe.match.ruled_out)
        message = f"What {path.name} is cannot be told ({why or 'nothing fits'})."
    raise InvalidModelException(
        f"{message} {remedy or _say_it(missing)}",
        remedy=remedy,
        metadata={"path": str(path), "detail": "unknown kind of model", "missing": ",".join(missing)},
    )


def _say_it(missing: Sequence[str]) -> str:
    return f"If you know what it is, install it again with {' and '.join(missing)} given."


def stored_path(location: Path, models_dir: Path, root_id: str) -> tuple[str, str]:
    """(path, root_id) for the record: relative inside models_dir, absolute elsewhere."""
    if location.is_relative_to(models_dir):
        return location.relative_to(models_dir).as_posix(), root_id
    return str(location), ""


def draft_of(
    probe: ProbeResult, overrides: Overrides, **others: Any
) -> tuple[model_pb2.Model, frozenset[str]]:
    """The record that a probe and the caller's overrides make.

    Args:
        probe: What was found.
        overrides: What wins over it.
        others: Further fields of the record, such as where the files are.

    Returns:
        The record, and the overrides that such a record has no field for.
    """
    match = probe.match
    values: dict[str, Any] = {
        "type": match.type,
        "format": match.format,
        "base": match.base,
        "compatible_bases": match.compatible_bases,
        "name": probe.name,
        "description": probe.description,
        "size_bytes": probe.size_bytes,
        **probe.said,
        **others,
        **match.settings,
        **overrides,
    }
    values["compatible_bases"] = [base for base in values["compatible_bases"] if base != values["base"]]
    model, unknown = assemble(values)
    return model, unknown.intersection(overrides)


def draft_of_job(job: Job, models_dir: Path, root_id: str) -> model_pb2.Model:
    """The record of a job that has been probed, hashed and placed.

    Raises:
        InvalidModelConfigException: The caller said something that such a model does not have.
    """
    assert job.probe is not None
    labels = {**job.labels, **job.overrides.get("labels", {})}
    path, root = stored_path(Path(job.local_path), models_dir, root_id)
    model, unknown = draft_of(
        job.probe,
        {**job.overrides, **({"labels": labels} if labels else {})},
        key=job.key,
        path=path,
        root_id=root,
        original_hash=job.hash,
        current_hash=job.hash,
        source=job.record_source,
        source_type=_SOURCE_TYPES[job.plan.hub if job.plan is not None else job.source.kind],
        **(_said(job.plan.metadata) if job.plan is not None else {}),
    )
    if wrong := [name for name in job.overrides if name in unknown]:
        kind = job.overrides.get("type", job.probe.type)
        raise InvalidModelConfigException(
            f"A model of type {kind} has no {' and no '.join(wrong)}: install it again without.",
            violations=[FieldViolation(f"overrides.{name}", f"no field of type {kind}") for name in wrong],
        )
    return model


def _said(metadata: Metadata) -> dict[str, Any]:
    """What a hub says of a model, as fields of its record; only what is said."""
    fields = ("name", "description", "license", "tags", "trigger_phrases", "preview_url", "source_url")
    return {name: value for name in fields if (value := getattr(metadata, name))}


def listed(job: Job) -> tuple[RecordFile, ...]:
    """The files of a job that has been hashed, for its record, with the SHA-256 that a download took."""
    digests = job.digests or ({job.files[0].path: job.sha256} if len(job.files) == 1 else {})
    return tuple(
        RecordFile(file.path, file.size_bytes, file.modify_time, sha256=digests.get(file.path, ""))
        for file in job.files
    )


def digests_of(job: Job, key: str) -> DigestWork:
    """The true digests that a record is to get of the files of a job that has been placed."""
    single = len(job.files) == 1
    is_file = single and job.files[0].path == Path(job.local_path).name
    expected = job.one_sha256 if single else ""
    published = {file.path: file.sha256 for file in job.plan.files} if job.plan is not None else {}
    verified = tuple(path for path, sha256 in job.digests.items() if published.get(path) == sha256)
    return DigestWork(key, job.uid, job.local_path, not is_file, expected, listed(job), verified)
