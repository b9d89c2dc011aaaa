"""Relinking: a record says anew where its model is, after a look that it is the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelkeep.exceptions import (
    EtagMismatchException,
    FieldInvalidException,
    FieldViolation,
    ModelkeepError,
)
from modelkeep.taxonomy import DigestState
from modelkeep_common.auth import Principal

from . import files
from .domain.draft import stored_path
from .domain.ports import DigestWork, JobStore, RecordFile, RecordPort, StoredModel
from .domain.roots import ModelRoots
from .domain.system_errors import reading
from .hashing import sampled_hash, sampled_hash_of_folder

#: Differences that an error names.
_NAMED = 3


async def relink(
    records: RecordPort,
    store: JobStore,
    roots: ModelRoots,
    key: str,
    text: str,
    named_by: Principal,
    *,
    etag: str = "",
    validate_only: bool = False,
) -> StoredModel:
    """Gives a model another place; the record as it is then.

    Args:
        records, store, roots: What the installer works with.
        key: Of the model.
        text: The path that holds it now.
        named_by: Who says so.
        etag: If not empty, the record's.
        validate_only: Change nothing; the record as it is.

    Raises:
        UnknownModelException, EtagMismatchException, DuplicatePathException: Of RecordService.
        FieldInvalidException: The path holds something else.
        ForbiddenPathException, SourceNotFoundException: It may not be read, or nothing is there.
    """
    while True:
        try:
            return await _once(records, store, roots, key, text, named_by, etag, validate_only)
        except EtagMismatchException:
            if etag:
                raise
            # the record changed between reading and writing, as by its digests: read it again


async def _once(
    records: RecordPort,
    store: JobStore,
    roots: ModelRoots,
    key: str,
    text: str,
    named_by: Principal,
    etag: str,
    validate_only: bool,
) -> StoredModel:
    model = await records.get(key)
    if etag and model.etag != etag:
        raise EtagMismatchException(
            "The model changed since its etag was read: read it again.", metadata={"etag": model.etag}
        )
    listed = await records.files(key)

    def look() -> tuple[Path, list[RecordFile]]:
        path = roots.requested(text, "path", named_by)
        return path, _same(path, listed, model.current_hash, roots)

    path, found = await asyncio.to_thread(look)
    if validate_only:
        return model
    stored = await records.relink(model, *stored_path(path, roots.models_dir, roots.root_id), found)
    pending = tuple(replace(file, sha256="", blake3="", state=DigestState.Pending) for file in found)
    await store.order_digests(
        DigestWork(key, str(uuid.uuid4()), str(path), await asyncio.to_thread(path.is_dir), "", pending)
    )
    return stored


def _same(path: Path, listed: Sequence[RecordFile], hash_: str, roots: ModelRoots) -> list[RecordFile]:
    """The files at a path as the record is to list them; what is known of their content stays."""
    with reading(path):
        path.stat()
    if not listed or not hash_:
        raise _differs("cannot be compared: the record has no files or no hash")
    single = len(listed) == 1 and not path.is_dir()
    if single:
        places = [(listed[0], path)]
    elif path.is_dir():
        places = [(file, path / file.path) for file in listed]
    else:
        raise _differs(f"holds one file, and the model {len(listed)}")
    found, differences = [], []
    for file, place in places:
        try:
            size, modified = files.file_facts(place)
        except ModelkeepError as error:
            differences.append(f"{file.path}: {error.message}")
            continue
        if size != file.size_bytes:
            differences.append(f"{place.name} has {size:,} bytes, and the record {file.size_bytes:,}")
        name = path.name if single else file.path
        found.append(replace(file, path=name, size_bytes=size, modify_time=modified))
    if differences:
        more = f" (and {len(differences) - _NAMED} more)" if len(differences) > _NAMED else ""
        raise _differs("holds something else: " + "; ".join(differences[:_NAMED]) + more)
    names = [file.path for file in found]
    now = sampled_hash(path, roots.open) if single else sampled_hash_of_folder(path, names, roots.open)
    if now != hash_:
        raise _differs("holds files of the same names and sizes, and another content")
    return found


def _differs(why: str) -> FieldInvalidException:
    return FieldInvalidException(
        f"The path {why}.",
        violations=[FieldViolation("path", why)],
        remedy="Name the place that the model was moved to, or install what lies there for itself.",
    )
