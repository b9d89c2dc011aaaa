"""ModelOverrides has what a record has, and an install takes all of it over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep_install.domain.jobs import Overrides
from modelkeep_install.domain.ports import ModelDraft

#: What a caller of an install does not choose, and why.
NOT_OVERRIDDEN = {
    "key": "made by the installer",
    "path": "where the files are",
    "root_id": "belongs to the path",
    "size_bytes": "output only",
    "original_hash": "a hash",
    "current_hash": "a hash",
    "etag": "output only",
    "create_time": "output only",
    "update_time": "output only",
    "revision": "output only",
    "raw_json": "what a newer version stored",
}


def fields_of_records() -> Iterator[Any]:
    for field in model_pb2.Model.DESCRIPTOR.fields:
        arm = field.message_type if field.containing_oneof is not None else None
        yield from [field] if arm is None else arm.fields


def kind(field: Any) -> tuple[object, ...]:
    return (
        field.type,
        field.is_repeated,
        field.message_type and field.message_type.full_name,
        field.enum_type and field.enum_type.full_name,
    )


OVERRIDES: dict[str, Any] = {field.name: field for field in install_pb2.ModelOverrides.DESCRIPTOR.fields}


@pytest.mark.parametrize("field", list(fields_of_records()), ids=lambda field: str(field.full_name))
def test_every_field_of_a_record_can_be_overridden_or_there_is_a_reason(field: Any) -> None:
    """A new field of a config: add one of the same name and type to ModelOverrides."""
    assert (field.name in OVERRIDES) != (field.name in NOT_OVERRIDDEN)
    if field.name in OVERRIDES:
        assert kind(OVERRIDES[field.name]) == kind(field)


def test_nothing_is_overridden_that_no_record_has() -> None:
    names = {field.name for field in fields_of_records()}
    assert OVERRIDES.keys() <= names
    assert NOT_OVERRIDDEN.keys() <= names


def test_a_text_or_number_that_is_set_differs_from_one_that_is_not() -> None:
    for field in OVERRIDES.values():
        assert field.has_presence or field.is_repeated or field.enum_type, field.name


def test_the_installer_keeps_every_override_and_puts_it_into_the_record() -> None:
    assert {field.name for field in dataclasses.fields(Overrides)} - {"cleared"} == OVERRIDES.keys()
    assert OVERRIDES.keys() <= {field.name for field in dataclasses.fields(ModelDraft)}
