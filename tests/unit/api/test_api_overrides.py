"""ModelOverrides has what a record has, and an install takes all of it over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from modelkeep.configs.fields import is_map
from modelkeep.install.v1 import install_pb2
from modelkeep.model.v1 import model_pb2
from modelkeep_install.convert import overrides_of
from modelkeep_install.domain.draft import draft_of
from modelkeep_install.domain.jobs import Overrides
from modelkeep_install.probe import Match, ProbeResult

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
    "missing_time": "output only",
    "revision": "output only",
    "raw_json": "what a newer version stored",
    "related_keys": "said once there are records on both sides",
    "extra_fields": "of another program's record, which an install has none of",
    "cover_image": "output only",
}


def fields_of_records() -> Iterator[Any]:
    for field in model_pb2.Model.DESCRIPTOR.fields:
        arm = field.message_type if field.containing_oneof is not None else None
        yield from [field] if arm is None else arm.fields


def kind(field: Any) -> tuple[object, ...]:
    return (
        field.type,
        field.is_repeated,
        is_map(field) or (field.message_type and field.message_type.full_name),
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


def sample(field: Any) -> Any:
    """A value that a field may have, other than its default."""
    if is_map(field):
        return {"a": "a label"}
    if field.enum_type is not None:
        one: Any = field.enum_type.values[1].number
    elif field.message_type is not None:
        one = {part.name: sample(part) for part in field.message_type.fields}
    else:
        one = {
            field.TYPE_STRING: f"https://example.org/{field.name}",
            field.TYPE_BOOL: False,
            field.TYPE_INT32: 3,
            field.TYPE_DOUBLE: 0.5,
        }[field.type]
    return [one] if field.is_repeated else one


ARMS = {
    field.name: field.message_type for field in model_pb2.Model.DESCRIPTOR.oneofs_by_name["config"].fields
}


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_the_installer_keeps_every_override_and_puts_it_into_the_record(arm: str) -> None:
    values = {name: sample(field) for name, field in OVERRIDES.items() if name not in ("type", "format")}
    said = install_pb2.ModelOverrides(
        type=f"MODEL_TYPE_{arm.upper()}", format="MODEL_FORMAT_DIFFUSERS", **values
    )
    stored = TypeAdapter(Overrides)
    kept = stored.validate_json(stored.dump_json(overrides_of(said)))
    assert kept == overrides_of(said)
    record, without = draft_of(ProbeResult(Match("unknown", "unknown"), "", "", 0), kept)
    config = getattr(record, arm)
    assert without == {
        name for names in map(dir_of, ARMS.values()) for name in names if name in OVERRIDES
    } - dir_of(ARMS[arm])
    for name in OVERRIDES.keys() - without:
        place = config if name in dir_of(ARMS[arm]) else record
        assert getattr(place, name) == getattr(said, name), name


def dir_of(message: Any) -> set[str]:
    return set(message.fields_by_name)


def test_a_job_that_was_stored_with_a_blank_for_every_field_says_only_what_was_said() -> None:
    stored = {
        "name": "",
        "rank": None,
        "tags": [],
        "upcast_attention": False,
        "base": "sd-1",
        "cleared": ["license"],
    }
    assert TypeAdapter(Overrides).validate_python(stored) == {
        "upcast_attention": False,
        "base": "sd-1",
        "license": "",
    }
    match = {"type": "main", "format": "diffusers", "variant": "normal", "rank": 0, "upcast_attention": False}
    found = {"match": match, "name": "n", "description": "", "size_bytes": 0}
    kept = TypeAdapter(ProbeResult).validate_python(found).match
    assert kept.settings == {"variant": "normal", "upcast_attention": False}
