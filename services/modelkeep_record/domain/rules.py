"""The rules for records: what may be stored, what may change, what collides. No grpc, no SQL.

A record is the message ``modelkeep.model.v1.Model`` itself: what a newer version put into it is kept
through every change. Each coroutine here runs inside one write transaction, of which it sees only
:class:`Records`, and waits for nothing else.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.configs.wire import kind_violations
from modelkeep.exceptions import (
    AmbiguousModelException,
    DuplicateModelException,
    DuplicatePathException,
    EtagMismatchException,
    FieldInvalidException,
    FieldViolation,
    InvalidModelConfigException,
    ModelkeepError,
    UnknownModelException,
)
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_common.masks import apply_update
from modelkeep_common.wire import MAX_TIME_S, MIN_TIME_S, to_timestamp, total

from . import covers, details, kinds, related

#: Version of the data model that the original's `version()` tells.
SCHEMA_VERSION = "3.2"
#: A record may have this many bytes, so that a page of them stays below the limit of a message.
MAX_RECORD_BYTES = 1 << 20

_MAX_VIOLATIONS = 50
_OUTPUT_ONLY = frozenset({"etag", "create_time", "update_time", "revision", "missing_time", "cover_image"})
_IMMUTABLE = frozenset({"key", "original_hash"})
#: What follows from the list of files once there is a record.
_OF_FILES = frozenset({"size_bytes"})
_MUTABLE = frozenset(field.name for field in Model.DESCRIPTOR.fields) - _OUTPUT_ONLY - _IMMUTABLE - _OF_FILES
#: What says where the files of a model lie, and which they are.
_PLACE = ("path", "root_id")
_FROM_DISK = (*_PLACE, "original_hash", "current_hash")
_KIND = ("type", "format", "base")


class Records(Protocol):
    """The records as one write transaction sees them."""

    async def get(self, key: str) -> Model | None:
        """The record of a key."""
        ...

    async def key_at_path(self, path: str, root_id: str) -> str | None:
        """The key of the record that has a path."""
        ...

    async def files(self, key: str) -> list[ModelFile]:
        """A model's files, ordered by path."""
        ...

    async def keys_naming(self, key: str) -> list[str]:
        """The keys of the records whose `related_keys` have a key, sorted."""
        ...

    async def cover(self, key: str) -> covers.Cover | None:
        """The picture that stands for a model."""
        ...

    async def next_revision(self) -> int:
        """The revision that the next :meth:`put` or :meth:`remove` makes."""
        ...

    async def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        """Store a record, new or changed; ``files`` replace its files if given."""
        ...

    async def put_cover(self, key: str, cover: covers.Cover | None) -> None:
        """Keep the picture of a record that is there, or none; what the record tells of it is put besides."""
        ...

    async def remove(self, key: str) -> None:
        """Delete a record, its list of files and its picture."""
        ...


async def create(records: Records, model: Model, files: Sequence[ModelFile], now: float) -> Model:
    """Store a new record.

    Args:
        records: The write transaction.
        model: The record; changed in place: a key if it has none, and the output-only fields.
        files: Its files.
        now: Seconds since 1970.

    Raises:
        FieldInvalidException, InvalidModelConfigException: It cannot be stored as it is.
        DuplicateModelException, DuplicatePathException: Its key or path is taken.
    """
    for name in _OUTPUT_ONLY:
        model.ClearField(name)
    complete(model)
    check_record(model)
    check_files(files)
    if not model.key:
        model.key = secrets.token_hex(16)
    elif await records.get(model.key) is not None:
        raise key_taken(model.key)
    await _check_path_free(records, model)
    others = await related.settle(records, model, None, max_bytes=MAX_RECORD_BYTES)
    model.create_time.CopyFrom(to_timestamp(now))
    await put_all(records, others, now)
    stamp(model, await records.next_revision(), now)
    await records.put(model, files)
    return model


async def update(
    records: Records,
    update: Model,
    mask: FieldMask | None,
    files: Sequence[ModelFile] | None,
    now: float,
    check_may_look: Callable[[str], None] = lambda field: None,
    *,
    validate_only: bool = False,
) -> tuple[Model, list[str]]:
    """Change a record.

    Args:
        records: The write transaction.
        update: The record's key, the new values, and perhaps its present etag.
        mask: Which fields to take; None: those that are set.
        files: The new list of files; None: leave it.
        now: Seconds since 1970.
        check_may_look: Called with the first field that tells what is on the disk (where the files lie, which
            they are, their hash); raises when the caller may not say so.
        validate_only: Store nothing.

    Returns:
        The record as it is now, with a new revision if anything changed, or as it would be; and the paths of
        the settings that a new type has no field for, and that are lost by it.

    Raises:
        UnknownModelException, EtagMismatchException: There is no such record, or not in that state.
        FieldInvalidException, InvalidModelConfigException: The change is not allowed.
        DuplicatePathException: The new path is taken.
    """
    before = await existing(records, update.key, update.etag)
    model = Model()
    model.CopyFrom(before)
    named = set(mask.paths) if mask is not None else set()
    if not named and files is None and not {f.name for f, _ in update.ListFields()} - {"key", "etag"}:
        raise FieldInvalidException(
            "The update names nothing to change.",
            violations=[FieldViolation("update_mask", "names nothing, and no field but the key is set")],
        )
    kinds.switch(model, update, named)
    # Set once: a record made before its files were hashed gets its first hash later.
    set_once = {"original_hash"} if not before.original_hash else set()
    apply_update(
        model, update, mask, mutable=_MUTABLE | set_once, immutable=_IMMUTABLE - set_once, prefix="model."
    )
    details.without_secrets(model, before)
    lost = kinds.carry(before, model, named)
    check_record(model, known=before)
    if files is not None:
        check_files(files)
        if _same_files(files, await records.files(model.key)):
            files = None
        else:
            model.size_bytes = total(file.size_bytes for file in files)
    others = await related.settle(records, model, before, max_bytes=MAX_RECORD_BYTES)
    # Not by ==, for which a NaN that is there already would be a change each time.
    if files is None and canonical(model) == canonical(before):
        return model, lost
    looked = [f"model.{name}" for name in _FROM_DISK if getattr(model, name) != getattr(before, name)]
    for field in [*looked, *(["files"] if files is not None else [])][:1]:
        check_may_look(field)
    if any(getattr(model, name) != getattr(before, name) for name in _PLACE):
        model.ClearField("missing_time")
        await _check_path_free(records, model)
    if not validate_only:
        await put_all(records, others, now)
        stamp(model, await records.next_revision(), now)
        await records.put(model, files)
    return model, lost


async def mark(records: Records, key: str, missing: bool, place: tuple[str, str] | None, now: float) -> bool:
    """Note whether a model's files are gone.

    Args:
        records: The write transaction.
        key: The record's key.
        missing: Whether they are gone.
        place: Path and root id of where they were looked for; None: wherever the record says.
        now: Seconds since 1970.

    Returns:
        Whether the record changed: it is there, was not marked so, and has the place that was looked at.
    """
    model = await records.get(key)
    if model is None or (place is not None and place != (model.path, model.root_id)):
        return False
    if model.HasField("missing_time") == missing:
        return False
    if missing:
        model.missing_time.CopyFrom(to_timestamp(now))
    else:
        model.ClearField("missing_time")
    stamp(model, await records.next_revision())
    await records.put(model, None)
    return True


async def set_cover(records: Records, key: str, etag: str, cover: covers.Cover | None, now: float) -> Model:
    """Give a model a picture, or take it away.

    Args:
        records: The write transaction.
        key: The record's key.
        etag: If set, what the record's must be for anything to change.
        cover: The picture; None: none.
        now: Seconds since 1970.

    Returns:
        The record as it is now, with a new revision if anything changed.

    Raises:
        UnknownModelException, EtagMismatchException: There is no such record, or not in that state.
    """
    model = await existing(records, key, "")
    present = model.cover_image if model.HasField("cover_image") else None
    facts = None if cover is None else cover.facts
    if facts == present:
        return model
    await existing(records, key, etag)
    covers.tell_of(model, facts)
    stamp(model, await records.next_revision(), now)
    await records.put_cover(key, cover)
    await records.put(model, None)
    return model


async def delete(records: Records, key: str, etag: str, now: float) -> tuple[Model, int]:
    """Delete a record, also from the lists of related models.

    Returns:
        The record as it was, and the revision of its end.

    Raises:
        UnknownModelException, EtagMismatchException: There is no such record, or not in that state.
    """
    model = await existing(records, key, etag)
    await put_all(records, await related.leave(records, [key]), now)
    revision = await records.next_revision()
    await records.remove(key)
    return model, revision


async def delete_many(records: Records, keys: Sequence[str], now: float) -> tuple[list[str], list[str]]:
    """Delete several records as :func:`delete` does one.

    Returns:
        The keys of those that there were, and the keys that no record had.
    """
    there = {key: await records.get(key) is not None for key in keys}
    deleted = [key for key, is_there in there.items() if is_there]
    await put_all(records, await related.leave(records, frozenset(deleted)), now)
    for key in deleted:
        await records.remove(key)
    return deleted, [key for key, is_there in there.items() if not is_there]


def complete(model: Model) -> None:
    """Give a new record what follows from the rest of it, and take secrets out of its addresses."""
    details.without_secrets(model)
    if not model.type:
        model.type = kinds.type_of_arm(model)
    kinds.select_arm(model)


def check_record(model: Model, known: Model | None = None) -> None:
    """Whether a record may be stored.

    Args:
        model: The record.
        known: The record before the change: what was wrong with it already is not held against the
            change, since a newer version may know better.

    Raises:
        FieldInvalidException: A field is bad.
        InvalidModelConfigException: Type, format, base and config do not fit together.
    """
    for find, error in (
        (partial(_field_violations, known=known), FieldInvalidException),
        (_kind_violations, InvalidModelConfigException),
    ):
        violations = list(find(model))
        if violations and known is not None:
            excused = set(find(known))
            violations = [violation for violation in violations if violation not in excused]
        if violations:
            raise error("", violations=violations)


def check_files(files: Sequence[ModelFile]) -> None:
    """Whether a list of files may be stored: paths differ, and lie inside the model.

    Raises:
        FieldInvalidException: They do not.
    """
    seen: set[str] = set()
    violations = []
    for index, file in enumerate(files):
        for name, problem in _file_problems(file, seen):
            violations.append(FieldViolation(f"files[{index}].{name}", problem))
        seen.add(file.path)
        if len(violations) >= _MAX_VIOLATIONS:
            break
    if violations:
        raise FieldInvalidException("The list of files has bad entries.", violations=violations)


def _file_problems(file: ModelFile, seen: Set[str]) -> Iterator[tuple[str, str]]:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or "\0" in file.path or not path.parts:
        yield "path", "must be relative to the model, without '..'"
    elif path.as_posix() != file.path:
        # Else one file could be listed under two names.
        yield "path", "must be in its shortest form, without '.' or doubled '/'"
    elif file.path in seen:
        yield "path", "is there twice"
    if not MIN_TIME_S <= file.modify_time.seconds <= MAX_TIME_S or not 0 <= file.modify_time.nanos < 10**9:
        yield "modify_time", "must lie between the years 1 and 9999"


def check_files_are_meant(files: Sequence[ModelFile], replace: bool) -> None:
    """Files without the wish to replace those that are there are a mistake.

    Raises:
        FieldInvalidException: That is so.
    """
    if files and not replace:
        raise FieldInvalidException(
            "The update has files, but does not say that they replace the present ones.",
            violations=[FieldViolation("replace_files", "must be true when files are given")],
        )


def unknown_model(key: str) -> UnknownModelException:
    """The error for a key without a record."""
    return UnknownModelException(f"No model has the key {key}.", metadata={"key": key})


def key_taken(key: str) -> DuplicateModelException:
    """The error for a key that has a record already."""
    return DuplicateModelException(f"There is a model with the key {key} already.", metadata={"key": key})


def path_taken(path: str, holder: str) -> DuplicatePathException:
    """The error for a path that another record has, which ``holder`` is the key of."""
    return DuplicatePathException(
        f"The model {holder} has this path already: {path}", metadata={"path": path, "key": holder}
    )


def not_the_only_one(count: int, name: str, base: str, type: str) -> ModelkeepError:
    """The error for a name, base and type that no record has, or more than one."""
    what = f"the name {name!r}, the base {base} and the type {type}"
    asked = {"name": name, "base": base, "type": type}
    if count == 0:
        return UnknownModelException(
            f"No model has {what}.",
            metadata=asked,
            remedy="All three are compared exactly; ListModels looks by `name_caseless`, `text` or any base.",
        )
    return AmbiguousModelException(
        f"{count} models have {what}: use the key of one.",
        metadata={**asked, "count": str(count)},
        remedy="ListModels with this name, base and type shows them with their keys.",
    )


async def existing(records: Records, key: str, etag: str) -> Model:
    """The record of a key, which must be in the state of an etag if one is given.

    Raises:
        UnknownModelException, EtagMismatchException: It is not there, or in another.
    """
    if not key:
        raise FieldInvalidException("", violations=[FieldViolation("model.key", "must be set")])
    model = await records.get(key)
    if model is None:
        raise unknown_model(key)
    if etag and etag != model.etag:
        raise EtagMismatchException(
            f"The record of model {key} changed since it was read: read it again.",
            metadata={"key": key, "etag": model.etag},
        )
    return model


async def _check_path_free(records: Records, model: Model) -> None:
    holder = await records.key_at_path(model.path, model.root_id)
    if holder is not None and holder != model.key:
        raise path_taken(model.path, holder)


async def put_all(records: Records, models: Sequence[Model], now: float | None = None) -> None:
    """Store the other sides of a change, before the record that it is about: its revision is the last.

    Args:
        records: The write transaction.
        models: The records.
        now: Seconds since 1970; None: it is no change that somebody made.
    """
    for model in models:
        stamp(model, await records.next_revision(), now)
        await records.put(model, None)


def _field_violations(model: Model, known: Model | None) -> Iterator[FieldViolation]:
    for name in ("name", "path", *_KIND):
        if not getattr(model, name):
            yield FieldViolation(f"model.{name}", "must be set")
    if "\0" in model.path:
        yield FieldViolation("model.path", "has a NUL character")
    if model.root_id and PurePosixPath(model.path).is_absolute():
        yield FieldViolation("model.root_id", "is for relative paths only")
    if model.ByteSize() > MAX_RECORD_BYTES:
        yield FieldViolation("model", f"is larger than {MAX_RECORD_BYTES} bytes")
    yield from details.extra_violations(model, known)


def _kind_violations(model: Model) -> Iterator[FieldViolation]:
    if all(getattr(model, name) for name in _KIND):
        for violation in kind_violations(model):
            yield FieldViolation(f"model.{violation.field}", violation.description)


def canonical(model: Model) -> bytes:
    """A record in the one form that equal records share."""
    return model.SerializeToString(deterministic=True)


def _same_files(new: Sequence[ModelFile], old: Sequence[ModelFile]) -> bool:
    return sorted(new, key=lambda file: file.path) == list(old)


def stamp(model: Model, revision: int, now: float | None = None) -> None:
    """Set revision, etag and, at a change that somebody makes now, ``update_time``."""
    if now is not None:
        model.update_time.CopyFrom(to_timestamp(now))
    model.revision = revision
    model.etag = ""
    digest = hashlib.blake2b(canonical(model), digest_size=12)
    model.etag = f'"{digest.hexdigest()}"'
