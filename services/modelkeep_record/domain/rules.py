"""The rules for records: what may be stored, what may change, what collides. No grpc, no SQL.

A record is the message ``modelkeep.model.v1.Model`` itself: what a newer version put into it is kept
through every change. Each function here runs inside one write transaction, of which it sees only
:class:`Records`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence, Set
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
from modelkeep_common.urls import shown
from modelkeep_common.wire import MAX_TIME_S, MIN_TIME_S, to_timestamp, total

from . import kinds

#: Version of the data model that the original's `version()` tells.
SCHEMA_VERSION = "3.2"
#: A record may have this many bytes, so that a page of them stays below the limit of a message.
MAX_RECORD_BYTES = 1 << 20

_MAX_VIOLATIONS = 50
_OUTPUT_ONLY = frozenset({"etag", "create_time", "update_time", "revision", "missing_time"})
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

    def get(self, key: str) -> Model | None:
        """The record of a key."""
        ...

    def key_at_path(self, path: str, root_id: str) -> str | None:
        """The key of the record that has a path."""
        ...

    def files(self, key: str) -> list[ModelFile]:
        """A model's files, ordered by path."""
        ...

    def next_revision(self) -> int:
        """The revision that the next :meth:`put` or :meth:`remove` makes."""
        ...

    def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        """Store a record, new or changed; ``files`` replace its files if given."""
        ...

    def remove(self, key: str) -> None:
        """Delete a record and its list of files."""
        ...


def create(records: Records, model: Model, files: Sequence[ModelFile], now: float) -> Model:
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
    model.source = shown(model.source)
    if not model.type:
        model.type = kinds.type_of_arm(model)
    kinds.select_arm(model)
    check_record(model)
    check_files(files)
    if not model.key:
        model.key = secrets.token_hex(16)
    elif records.get(model.key) is not None:
        raise DuplicateModelException(
            f"There is a model with the key {model.key} already.", metadata={"key": model.key}
        )
    _check_path_free(records, model)
    model.create_time.CopyFrom(to_timestamp(now))
    _stamp(model, records.next_revision(), now)
    records.put(model, files)
    return model


def update(
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
    before = _get(records, update.key, update.etag)
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
    model.source = shown(model.source)
    lost = kinds.carry(before, model, named)
    check_record(model, known=before)
    if files is not None:
        check_files(files)
        if _same_files(files, records.files(model.key)):
            files = None
        else:
            model.size_bytes = total(file.size_bytes for file in files)
    # Not by ==, for which a NaN that is there already would be a change each time.
    if files is None and _bytes(model) == _bytes(before):
        return model, lost
    looked = [f"model.{name}" for name in _FROM_DISK if getattr(model, name) != getattr(before, name)]
    for field in [*looked, *(["files"] if files is not None else [])][:1]:
        check_may_look(field)
    if any(getattr(model, name) != getattr(before, name) for name in _PLACE):
        model.ClearField("missing_time")
        _check_path_free(records, model)
    if not validate_only:
        _stamp(model, records.next_revision(), now)
        records.put(model, files)
    return model, lost


def mark(records: Records, key: str, missing: bool, place: tuple[str, str] | None, now: float) -> bool:
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
    model = records.get(key)
    if model is None or (place is not None and place != (model.path, model.root_id)):
        return False
    if model.HasField("missing_time") == missing:
        return False
    if missing:
        model.missing_time.CopyFrom(to_timestamp(now))
    else:
        model.ClearField("missing_time")
    _stamp(model, records.next_revision())
    records.put(model, None)
    return True


def delete(records: Records, key: str, etag: str) -> tuple[Model, int]:
    """Delete a record.

    Returns:
        The record as it was, and the revision of its end.

    Raises:
        UnknownModelException, EtagMismatchException: There is no such record, or not in that state.
    """
    model = _get(records, key, etag)
    revision = records.next_revision()
    records.remove(key)
    return model, revision


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
        (_field_violations, FieldInvalidException),
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


def _get(records: Records, key: str, etag: str) -> Model:
    if not key:
        raise FieldInvalidException("", violations=[FieldViolation("model.key", "must be set")])
    model = records.get(key)
    if model is None:
        raise unknown_model(key)
    if etag and etag != model.etag:
        raise EtagMismatchException(
            f"The record of model {key} changed since it was read: read it again.",
            metadata={"key": key, "etag": model.etag},
        )
    return model


def _check_path_free(records: Records, model: Model) -> None:
    holder = records.key_at_path(model.path, model.root_id)
    if holder is not None and holder != model.key:
        raise DuplicatePathException(
            f"The model {holder} has this path already: {model.path}",
            metadata={"path": model.path, "key": holder},
        )


def _field_violations(model: Model) -> Iterator[FieldViolation]:
    for name in ("name", "path", *_KIND):
        if not getattr(model, name):
            yield FieldViolation(f"model.{name}", "must be set")
    if "\0" in model.path:
        yield FieldViolation("model.path", "has a NUL character")
    if model.root_id and PurePosixPath(model.path).is_absolute():
        yield FieldViolation("model.root_id", "is for relative paths only")
    if model.ByteSize() > MAX_RECORD_BYTES:
        yield FieldViolation("model", f"is larger than {MAX_RECORD_BYTES} bytes")


def _kind_violations(model: Model) -> Iterator[FieldViolation]:
    if all(getattr(model, name) for name in _KIND):
        for violation in kind_violations(model):
            yield FieldViolation(f"model.{violation.field}", violation.description)


def _bytes(model: Model) -> bytes:
    return model.SerializeToString(deterministic=True)


def _same_files(new: Sequence[ModelFile], old: Sequence[ModelFile]) -> bool:
    return sorted(new, key=lambda file: file.path) == list(old)


def _stamp(model: Model, revision: int, now: float | None = None) -> None:
    """The marks of a new state; without a time it is none that somebody made."""
    if now is not None:
        model.update_time.CopyFrom(to_timestamp(now))
    model.revision = revision
    model.etag = ""
    digest = hashlib.blake2b(_bytes(model), digest_size=12)
    model.etag = f'"{digest.hexdigest()}"'
