"""Records of another store, taken over with all that belongs to them. No grpc, no SQL.

A record keeps its key, its hashes, its files and its times; etag and revision are this store's own. What a
newer version wrote is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from modelkeep.exceptions import (
    DuplicateModelException,
    DuplicatePathException,
    FieldInvalidException,
    FieldViolation,
    InvalidModelConfigException,
    ModelkeepError,
)
from modelkeep.model.v1.cover_image_pb2 import CoverImage
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep.record.v1.exports_pb2 import (
    IMPORT_CONFLICT_FAIL,
    IMPORT_CONFLICT_REPLACE,
    IMPORT_CONFLICT_SKIP,
    IMPORT_OUTCOME_CREATED,
    IMPORT_OUTCOME_REFUSED,
    IMPORT_OUTCOME_REPLACED,
    IMPORT_OUTCOME_SKIPPED,
    IMPORT_OUTCOME_UNCHANGED,
    ExportedModel,
    ImportConflict,
    ImportedModel,
    ImportOutcome,
)
from modelkeep_common.wire import to_timestamp

from . import related, rules
from .covers import Cover, tell_of

#: What helps where a record is there already and is not equal.
_REMEDY: Final = (
    "Import with another answer to conflicts: skip leaves the record that is there, replace replaces it."
)
#: Files that a record may have.
MAX_FILES: Final = 20_000


class Entry(NamedTuple):
    """One record to take over, and what is wrong with it by the rules of the API's fields."""

    exported: ExportedModel
    violations: Sequence[FieldViolation] = ()


class _Taken(NamedTuple):
    """What became of a record, and what there is to say about it."""

    outcome: ImportOutcome
    remark: ModelkeepError | None = None


async def import_models(
    records: rules.Records, entries: Sequence[Entry], on_conflict: ImportConflict, now: float
) -> list[ImportedModel]:
    """Take over records.

    Args:
        records: The write transaction.
        entries: The records.
        on_conflict: What becomes of one that is there already and is not equal.
        now: Seconds since 1970, for records that tell no times.

    Returns:
        What became of each.

    Raises:
        ModelkeepError: One cannot be stored, and ``on_conflict`` is IMPORT_CONFLICT_FAIL.
    """
    results = []
    left_out: dict[str, _Taken] = {}
    for index, entry in enumerate(entries):
        key = entry.exported.model.key
        try:
            if entry.exported.is_continuation and key in left_out:
                taken = left_out[key]
            else:
                taken = await _take(records, entry, on_conflict, now)
        except ModelkeepError as error:
            if on_conflict == IMPORT_CONFLICT_FAIL:
                raise _at(index, error) from None
            taken = _Taken(IMPORT_OUTCOME_REFUSED, error)
        if taken.outcome in (IMPORT_OUTCOME_SKIPPED, IMPORT_OUTCOME_REFUSED):
            left_out[key] = taken
        else:
            left_out.pop(key, None)
        result = ImportedModel(key=key, outcome=taken.outcome)
        if taken.remark is not None:
            result.reason, result.message = taken.remark.reason, taken.remark.message
        results.append(result)
    return results


async def _take(records: rules.Records, entry: Entry, on_conflict: ImportConflict, now: float) -> _Taken:
    exported, model = entry.exported, Model()
    model.CopyFrom(exported.model)
    if entry.violations:
        raise FieldInvalidException("", violations=entry.violations)
    if not model.key:
        raise FieldInvalidException("", violations=[FieldViolation("model.key", "must be set")])
    rules.check_files(exported.files)
    if exported.is_continuation:
        return await _add_files(records, model.key, exported.files)
    odd = _prepare(model)
    cover = Cover.of(exported.cover_image, "cover_image") if exported.cover_image else None
    before = await records.get(model.key)
    has_update_time = model.HasField("update_time")
    tell_of(model, cover.facts if cover is not None else _facts(before))
    if before is not None:
        _fill(model, before)
        if _is_same(model, before) and await _has_files(records, exported):
            return _Taken(IMPORT_OUTCOME_UNCHANGED, odd)
    conflict = await _conflict(records, model, exists=before is not None)
    if conflict is not None:
        if on_conflict == IMPORT_CONFLICT_SKIP:
            return _Taken(IMPORT_OUTCOME_SKIPPED, conflict)
        if on_conflict != IMPORT_CONFLICT_REPLACE or isinstance(conflict, DuplicatePathException):
            raise conflict
    if not model.HasField("create_time"):
        model.create_time.CopyFrom(to_timestamp(now))
    if not has_update_time:
        model.update_time.CopyFrom(to_timestamp(now))
    others = await related.settle(
        records, model, before, max_bytes=rules.MAX_RECORD_BYTES, may_be_missing=True
    )
    await rules.put_all(records, others)
    rules.stamp(model, await records.next_revision())
    await records.put(model, exported.files)
    if cover is not None:
        await records.put_cover(model.key, cover)
    return _Taken(IMPORT_OUTCOME_CREATED if before is None else IMPORT_OUTCOME_REPLACED, odd)


async def _add_files(records: rules.Records, key: str, files: Sequence[ModelFile]) -> _Taken:
    """Take a further part of a record that is there."""
    model = await records.get(key)
    if model is None:
        raise rules.unknown_model(key)
    had = {file.path: file for file in await records.files(key)}
    have = had | {file.path: file for file in files}
    if have == had:
        return _Taken(IMPORT_OUTCOME_UNCHANGED)
    if len(have) > MAX_FILES:
        problem = f"must have at most {MAX_FILES:,} entries in all parts, not {len(have):,}"
        raise FieldInvalidException("", violations=[FieldViolation("files", problem)])
    rules.stamp(model, await records.next_revision())
    await records.put(model, [have[path] for path in sorted(have)])
    return _Taken(IMPORT_OUTCOME_REPLACED)


def _prepare(model: Model) -> ModelkeepError | None:
    """Make a record what could be stored; tells what is odd about it, if that is for a newer version to know.

    Raises:
        FieldInvalidException, InvalidModelConfigException: It cannot be.
    """
    model.ClearField("etag")
    model.ClearField("revision")
    rules.complete(model)
    try:
        rules.check_record(model)
    except InvalidModelConfigException as error:
        arm = model.WhichOneof("config")
        if any(violation.field == f"model.{arm}" for violation in error.violations):
            raise  # no version gives a type the config of another
        return InvalidModelConfigException(
            "This version does not know such a model, and shows it as unknown", violations=error.violations
        )
    return None


def _fill(model: Model, before: Model) -> None:
    """Take from the record that is there what is not said of the one that is imported.

    An import adds related models and takes none away, so that it does not matter which of two comes first,
    nor whether both name the other.
    """
    model.related_keys[:] = sorted({*model.related_keys, *before.related_keys})
    for name in ("create_time", "update_time"):
        if not model.HasField(name) and before.HasField(name):
            getattr(model, name).CopyFrom(getattr(before, name))
    if (model.path, model.root_id) == (before.path, before.root_id):
        # Whether files are missing is seen where they are, and not told by a list of another day.
        model.ClearField("missing_time")
        if before.HasField("missing_time"):
            model.missing_time.CopyFrom(before.missing_time)


def _facts(before: Model | None) -> CoverImage | None:
    """What a record that is there tells of its picture."""
    return before.cover_image if before is not None and before.HasField("cover_image") else None


def _is_same(model: Model, before: Model) -> bool:
    there = Model()
    there.CopyFrom(before)
    there.ClearField("etag")
    there.ClearField("revision")
    return rules.canonical(model) == rules.canonical(there)


async def _has_files(records: rules.Records, exported: ExportedModel) -> bool:
    """Whether a record has the files that are told of it; of a first part, these among others."""
    have = {file.path: file for file in await records.files(exported.model.key)}
    told = {file.path: file for file in exported.files}
    return have | told == have and (exported.is_continued or len(have) == len(told))


async def _conflict(records: rules.Records, model: Model, *, exists: bool) -> ModelkeepError | None:
    holder = await records.key_at_path(model.path, model.root_id)
    if holder is not None and holder != model.key:
        return rules.path_taken(model.path, holder)
    if not exists:
        return None
    taken = rules.key_taken(model.key)
    return DuplicateModelException(taken.message, metadata=taken.metadata, remedy=_REMEDY)


def _at(index: int, error: ModelkeepError) -> ModelkeepError:
    """An error that names its bad fields as those of the request."""
    if isinstance(error, FieldInvalidException | InvalidModelConfigException):
        places = [
            FieldViolation(f"models[{index}].{violation.field}", violation.description)
            for violation in error.violations
        ]
        return type(error)("", violations=places)
    return error


class Rehearsal:
    """:class:`rules.Records` as they would be: what is put stays here, and nothing is stored."""

    def __init__(self, records: rules.Records) -> None:
        self._records = records
        #: None: removed.
        self._models: dict[str, Model | None] = {}
        self._files: dict[str, Sequence[ModelFile]] = {}
        self._covers: dict[str, Cover | None] = {}

    async def get(self, key: str) -> Model | None:
        """See :class:`rules.Records`."""
        if key not in self._models:
            return await self._records.get(key)
        model = self._models[key]
        return None if model is None else Model.FromString(model.SerializeToString())

    async def key_at_path(self, path: str, root_id: str) -> str | None:
        """See :class:`rules.Records`."""
        for key, model in self._models.items():
            if model is not None and (model.path, model.root_id) == (path, root_id):
                return key
        holder = await self._records.key_at_path(path, root_id)
        return None if holder in self._models else holder

    async def files(self, key: str) -> list[ModelFile]:
        """See :class:`rules.Records`."""
        return list(self._files[key]) if key in self._files else await self._records.files(key)

    async def cover(self, key: str) -> Cover | None:
        """See :class:`rules.Records`."""
        return self._covers[key] if key in self._covers else await self._records.cover(key)

    async def keys_naming(self, key: str) -> list[str]:
        """See :class:`rules.Records`."""
        kept = [one for one in await self._records.keys_naming(key) if one not in self._models]
        there = [model for model in self._models.values() if model is not None]
        return sorted([*kept, *(model.key for model in there if key in model.related_keys)])

    async def next_revision(self) -> int:
        """See :class:`rules.Records`; the same each time."""
        return await self._records.next_revision()

    async def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        """See :class:`rules.Records`."""
        self._models[model.key] = model
        if files is not None:
            self._files[model.key] = sorted(files, key=lambda file: file.path)

    async def put_cover(self, key: str, cover: Cover | None) -> None:
        """See :class:`rules.Records`."""
        self._covers[key] = cover

    async def remove(self, key: str) -> None:
        """See :class:`rules.Records`."""
        self._models[key] = self._covers[key] = None
        self._files[key] = ()
