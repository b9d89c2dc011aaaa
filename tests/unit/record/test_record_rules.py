"""The rules of records by themselves: no database, no server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from modelkeep.exceptions import (
    DuplicatePathException,
    EtagMismatchException,
    FieldInvalidException,
    InvalidModelConfigException,
    UnknownModelException,
)
from modelkeep.model.v1.model_pb2 import Model, ModelFile
from modelkeep_record.domain import rules


class Shelf:
    """:class:`modelkeep_record.domain.rules.Records` in memory."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.listed: dict[str, list[ModelFile]] = {}
        self.revision = 0

    def get(self, key: str) -> Model | None:
        return self.models.get(key)

    def key_at_path(self, path: str, root_id: str) -> str | None:
        found = (key for key, one in self.models.items() if (one.path, one.root_id) == (path, root_id))
        return next(found, None)

    def files(self, key: str) -> list[ModelFile]:
        return self.listed.get(key, [])

    def next_revision(self) -> int:
        return self.revision + 1

    def put(self, model: Model, files: Sequence[ModelFile] | None) -> None:
        self.revision += 1
        kept = Model()
        kept.CopyFrom(model)
        self.models[model.key] = kept
        if files is not None:
            self.listed[model.key] = list(files)

    def remove(self, key: str) -> None:
        self.revision += 1
        del self.models[key]


def vae(**more: object) -> Model:
    fields = {"name": "v", "path": "/v", "base": "sd-1", "type": "MODEL_TYPE_VAE"}
    return Model(**{**fields, "format": "MODEL_FORMAT_CHECKPOINT", **more})  # type: ignore[arg-type]  # by name


def test_a_record_is_made_with_a_key_an_etag_and_the_arm_of_its_type() -> None:
    shelf = Shelf()
    made = rules.create(shelf, vae(etag="mine", revision=77), [], 5.0)
    assert (len(made.key), made.revision, made.WhichOneof("config")) == (32, 1, "vae")
    assert made.etag != "mine"
    assert made.create_time.seconds == made.update_time.seconds == 5
    with pytest.raises(DuplicatePathException):
        rules.create(shelf, vae(), [], 6.0)


def test_an_update_that_changes_nothing_makes_no_revision_and_one_of_an_old_state_is_refused() -> None:
    shelf = Shelf()
    made = rules.create(shelf, vae(), [], 5.0)
    same = rules.update(shelf, Model(key=made.key, name="v"), None, None, 9.0)
    assert (same.revision, shelf.revision) == (1, 1)
    changed = rules.update(shelf, Model(key=made.key, name="w", etag=made.etag), None, None, 9.0)
    assert (changed.name, changed.revision, changed.create_time.seconds) == ("w", 2, 5)
    with pytest.raises(EtagMismatchException):
        rules.update(shelf, Model(key=made.key, name="x", etag=made.etag), None, None, 9.0)
    with pytest.raises(FieldInvalidException, match="names nothing"):
        rules.update(shelf, Model(key=made.key), None, None, 9.0)


def test_what_a_newer_version_wrote_survives_an_update_and_is_not_held_against_it() -> None:
    shelf = Shelf()
    made = rules.create(shelf, vae(), [], 5.0)
    newer = shelf.models[made.key]
    newer.format = 99  # type: ignore[assignment]  # open enum
    unknown_field = b"\xc2\xbb\x01\x03new"
    newer.MergeFromString(unknown_field)
    changed = rules.update(shelf, Model(key=made.key, name="w"), None, None, 9.0)
    assert changed.format == 99
    assert unknown_field in changed.SerializeToString()
    with pytest.raises(InvalidModelConfigException):
        rules.update(
            shelf, Model(key=made.key, format="MODEL_FORMAT_LYCORIS"), FieldMask(paths=["format"]), None, 9.0
        )


def test_who_may_not_say_where_files_lie_may_still_change_the_rest() -> None:
    shelf = Shelf()
    made = rules.create(shelf, vae(), [], 5.0)

    def refuse() -> None:
        raise PermissionError

    assert rules.update(shelf, Model(key=made.key, name="w"), None, None, 9.0, refuse).name == "w"
    with pytest.raises(PermissionError):
        rules.update(shelf, Model(key=made.key, path="/elsewhere"), None, None, 9.0, refuse)
    with pytest.raises(PermissionError):
        rules.update(shelf, Model(key=made.key), None, [ModelFile(path="a")], 9.0, refuse)


def test_a_record_ends_once() -> None:
    shelf = Shelf()
    made = rules.create(shelf, vae(), [], 5.0)
    assert rules.delete(shelf, made.key, made.etag)[1] == 2
    with pytest.raises(UnknownModelException):
        rules.delete(shelf, made.key, "")
