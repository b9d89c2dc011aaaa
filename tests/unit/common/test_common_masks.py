"""modelkeep_common.masks: an update changes what it names, all of it or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.exceptions import FieldInvalidException
from modelkeep_common.masks import apply_update


def _thing() -> Any:
    """A message with every kind of field, in a pool of its own."""
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="thing.proto", package="t", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")

    def add(message: Any, name: str, number: int, kind: int, **options: Any) -> Any:
        options.setdefault("label", types.LABEL_OPTIONAL)
        return message.field.add(name=name, number=number, type=kind, **options)

    lora = file.message_type.add(name="Lora")
    add(lora, "weight", 1, types.TYPE_DOUBLE)
    add(lora, "words", 2, types.TYPE_STRING, label=types.LABEL_REPEATED)
    vae = file.message_type.add(name="Vae")
    add(vae, "scale", 1, types.TYPE_DOUBLE)
    thing = file.message_type.add(name="Thing")
    add(thing, "key", 1, types.TYPE_STRING)
    add(thing, "name", 2, types.TYPE_STRING)
    add(thing, "size", 3, types.TYPE_INT64)
    add(thing, "tags", 4, types.TYPE_STRING, label=types.LABEL_REPEATED)
    add(thing, "note", 5, types.TYPE_STRING, proto3_optional=True, oneof_index=1)
    add(thing, "time", 6, types.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    thing.oneof_decl.add(name="config")
    thing.oneof_decl.add(name="_note")
    add(thing, "lora", 10, types.TYPE_MESSAGE, type_name=".t.Lora", oneof_index=0)
    add(thing, "vae", 11, types.TYPE_MESSAGE, type_name=".t.Vae", oneof_index=0)
    entry = thing.nested_type.add(name="LabelsEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, types.TYPE_STRING)
    add(entry, "value", 2, types.TYPE_STRING)
    add(thing, "labels", 12, types.TYPE_MESSAGE, type_name=".t.Thing.LabelsEntry", label=types.LABEL_REPEATED)
    add(thing, "lineage", 13, types.TYPE_MESSAGE, type_name=".t.Vae")
    pool = descriptor_pool.DescriptorPool()
    timestamp = descriptor_pb2.FileDescriptorProto()
    TIMESTAMP.CopyToProto(timestamp)
    pool.Add(timestamp)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Thing"))


Thing = _thing()

MUTABLE = {"name", "tags", "note", "time", "lora", "vae", "labels", "lineage.scale"}
IMMUTABLE = {"key"}
OUTPUT_ONLY = {"size"}


def apply(current: Message, update: Message, *paths: str, mask: bool | None = None) -> list[str]:
    given_mask = FieldMask(paths=paths) if paths or mask else None
    return apply_update(current, update, given_mask, mutable=MUTABLE, immutable=IMMUTABLE)


def refused(current: Any, update: Any, *paths: str) -> dict[str, str]:
    before = current.SerializeToString(deterministic=True)
    with pytest.raises(FieldInvalidException) as caught:
        apply(current, update, *paths)
    assert current.SerializeToString(deterministic=True) == before
    return {violation.field: violation.description for violation in caught.value.violations}


def test_without_a_mask_what_is_set_is_taken() -> None:
    current = Thing(key="k", name="a", tags=["x"], size=3)
    assert apply(current, Thing(name="b", labels={"l": "1"})) == ["labels", "name"]
    assert current == Thing(key="k", name="b", tags=["x"], size=3, labels={"l": "1"})


def test_without_a_mask_sub_messages_are_merged_field_by_field() -> None:
    current = Thing(lora={"weight": 0.5, "words": ["a"]})
    assert apply(current, Thing(lora={"weight": 0.75})) == ["lora.weight"]
    assert current == Thing(lora={"weight": 0.75, "words": ["a"]})


def test_a_mask_can_clear_and_replaces_lists_and_maps_as_a_whole() -> None:
    current = Thing(name="a", tags=["x", "y"], labels={"a": "1", "b": "2"}, note="n", time={"seconds": 5})
    update = Thing(labels={"c": "3"}, tags=["z"])
    assert apply(current, update, "name", "tags", "labels", "note", "time") == [
        "labels",
        "name",
        "note",
        "tags",
        "time",
    ]
    assert current == Thing(labels={"c": "3"}, tags=["z"])


def test_an_empty_mask_is_no_mask() -> None:
    current = Thing(name="a")
    assert apply(current, Thing(name="b"), mask=True) == ["name"]


def test_only_what_really_changed_is_reported() -> None:
    current = Thing(name="a", tags=["x"])
    assert apply(current, Thing(name="a", tags=["y"]), "name", "tags") == ["tags"]
    assert apply(current, Thing(name="a"), "name") == []


def test_a_field_with_presence_may_be_set_to_its_default() -> None:
    current = Thing(note="n")
    assert apply(current, Thing(note=""), "note") == ["note"]
    assert current.HasField("note")


def test_a_mask_may_go_into_the_present_arm_of_a_oneof() -> None:
    current = Thing(lora={"weight": 0.5, "words": ["a"]})
    assert apply(current, Thing(lora={"words": []}), "lora.words") == ["lora.words"]
    assert current == Thing(lora={"weight": 0.5})


def test_going_into_another_arm_is_refused_and_naming_it_whole_selects_it() -> None:
    current = Thing(lora={"weight": 0.5})
    assert "has lora" in refused(current, Thing(vae={"scale": 2}), "vae.scale")["vae.scale"]
    assert apply(current, Thing(vae={"scale": 2}), "vae") == ["vae"]
    assert current == Thing(vae={"scale": 2})
    assert apply(current, Thing(lora={"weight": 1})) == ["lora"]
    assert current == Thing(lora={"weight": 1})


def test_an_empty_arm_is_an_arm() -> None:
    current = Thing(lora={"weight": 0.5})
    assert apply(current, Thing(vae={})) == ["vae"]
    assert current.WhichOneof("config") == "vae"


def test_a_star_replaces_everything_that_may_change() -> None:
    current = Thing(key="k", size=3, name="a", tags=["x"], lora={"weight": 0.5}, lineage={"scale": 1})
    assert apply(current, Thing(name="b", vae={"scale": 1}), "*") == ["lineage.scale", "name", "tags", "vae"]
    assert current == Thing(key="k", size=3, name="b", vae={"scale": 1}, lineage={})
    apply(current, Thing(name="c"), "*")
    assert current.WhichOneof("config") is None


def test_every_bad_path_is_named() -> None:
    found = refused(
        Thing(),
        Thing(key="other"),
        "nope",
        "name.x",
        "tags.x",
        "labels.a",
        "key",
        "size",
        "lineage",
        "",
        "name",
    )
    assert found == {
        "nope": "is not a field",
        "name.x": "is not a field",
        "tags.x": "is not a field",
        "labels.a": "is not a field",
        "": "is not a field",
        "key": "cannot be changed",
        "size": "is set by the server",
        "lineage": "cannot be replaced as a whole: name its fields",
    }


def test_an_immutable_field_is_fine_with_its_present_value() -> None:
    current = Thing(key="k", name="a")
    assert apply(current, Thing(key="k", name="b"), "key", "name") == ["name"]
    assert refused(current, Thing(key="x", name="c")) == {"key": "cannot be changed"}


def test_what_was_read_can_be_sent_back_as_a_whole() -> None:
    current = Thing(key="k", size=3, name="a", lora={"weight": 1})
    update = Thing()
    update.CopyFrom(current)
    update.name = "b"
    assert apply(current, update) == ["name"]
    update.size = 4
    assert refused(current, update) == {"size": "is set by the server"}


def test_violations_carry_the_prefix() -> None:
    with pytest.raises(FieldInvalidException) as caught:
        apply_update(Thing(), Thing(), FieldMask(paths=["x"]), mutable=MUTABLE, prefix="model.")
    assert [violation.field for violation in caught.value.violations] == ["model.x"]


_text = st.text(max_size=3)
_loras = st.builds(
    lambda w, words: {"weight": w, "words": words}, st.floats(0, 1), st.lists(_text, max_size=2)
)
_vaes = st.builds(lambda s: {"scale": s}, st.floats(0, 1))


@st.composite
def things(draw: Any) -> Any:
    fields: dict[str, Any] = {"key": "k", "size": 1}
    for name, strategy in (
        ("name", _text),
        ("tags", st.lists(_text, max_size=3)),
        ("note", _text),
        ("time", st.builds(lambda s: {"seconds": s}, st.integers(0, 9))),
        ("labels", st.dictionaries(_text, _text, max_size=2)),
        ("lineage", _vaes),
    ):
        if draw(st.booleans()):
            fields[name] = draw(strategy)
    arm = draw(st.sampled_from(["lora", "vae", None]))
    if arm is not None:
        fields[arm] = draw(_loras if arm == "lora" else _vaes)
    return Thing(**fields)


PATHS = sorted(MUTABLE | {"lora.weight", "lora.words", "vae.scale", "time.seconds", "key"})
#: Paths that may change when a path is named: an arm also clears its sibling.
REACH = {"lora": {"lora", "vae"}, "vae": {"lora", "vae"}}


def test_paths_into_two_arms_are_refused_also_where_the_resource_has_neither() -> None:
    current, update = Thing(key="k"), Thing(lora={})
    with pytest.raises(FieldInvalidException):
        apply(current, update, "lora.weight", "vae.scale")
    assert current == Thing(key="k")


@given(things(), things(), st.lists(st.sampled_from(PATHS), max_size=4))
def test_an_update_changes_nothing_but_what_it_names_and_a_second_time_nothing(
    current: Any, update: Any, paths: list[str]
) -> None:
    before = Thing()
    before.CopyFrom(current)
    try:
        changed = apply(current, update, *paths)
    except FieldInvalidException:
        assert current == before
        return
    named = {name for path in paths for name in REACH.get(path.split(".")[0], {path.split(".")[0]})}
    if not paths:
        named = {name for field, _ in update.ListFields() for name in REACH.get(field.name, {field.name})}
    for field in Thing.DESCRIPTOR.fields:
        if field.name not in named:
            assert getattr(current, field.name) == getattr(before, field.name)
            if field.has_presence:
                assert current.HasField(field.name) == before.HasField(field.name)
    assert (changed == []) == (current == before)
    again = Thing()
    again.CopyFrom(current)
    assert apply(again, update, *paths) == []
    assert again == current


@given(things(), things())
def test_a_star_makes_the_mutable_part_equal_to_the_updates(current: Any, update: Any) -> None:
    apply(current, update, "*")
    for name in ("name", "tags", "note", "time", "labels", "lora", "vae"):
        assert getattr(current, name) == getattr(update, name)
    assert current.WhichOneof("config") == update.WhichOneof("config")
