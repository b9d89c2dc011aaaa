"""Every rule of every request, broken: what the caller is told is a sentence, and no pattern."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldOptions, OneofOptions

from buf.validate import validate_pb2
from modelkeep.configs.fields import is_map
from modelkeep.exceptions import FieldInvalidException
from modelkeep.record.v1 import record_service_pb2
from modelkeep.rpc import methods
from modelkeep_common.calls.sentences import in_words
from modelkeep_common.calls.validation import Rules, collector
from support import apidescriptors, raisesites

#: How a description goes on after the name of its field.
_SENTENCE = re.compile(r"(its key )?(must|has|needs) [A-Za-z0-9 ,./\"_:'-]+\Z")
#: Says when the other rules of a field count.
_NO_RULE = {"ignore"}


def rules_of(field: FieldDescriptor) -> Any:
    options = FieldOptions.FromString(field.GetOptions().SerializeToString())
    return options.Extensions[validate_pb2.field]  # type: ignore[index]  # no types for extensions


def single(rules: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each rule with its value: ("string", "max_len"), 64."""
    for rule, value in rules.ListFields():
        is_group = rule.message_type is not None and rule.message_type.full_name.startswith("buf.validate.")
        if is_group:
            yield from single(value, (*path, rule.name))
        else:
            yield (*path, rule.name), value


def bad_value(rule: str, value: Any) -> Any:
    """What breaks a rule."""
    makers: dict[str, Callable[[], Any]] = {
        "max_len": lambda: "x" * (value + 1),
        "min_len": lambda: "x" * (value - 1),
        "max_bytes": lambda: "ü" * (value // 2 + 1),
        "pattern": lambda: " ",
        "uuid": lambda: "x",
        "defined_only": lambda: 9999,
        "not_in": lambda: 0,
        "finite": lambda: float("inf"),
        "gt": lambda: value,
        "gte": lambda: value - 1 if isinstance(value, int) else {"seconds": -1},
        "lte": lambda: value + 1 if isinstance(value, int) else {"seconds": value.seconds + 1},
    }
    return makers[rule]()


def broken(field: FieldDescriptor, path: tuple[str, ...], value: Any) -> Any:
    """A message whose only fault is that a field breaks one of its rules."""
    kind, rule = path[0], path[-1]
    assert field.containing_type is not None
    message = message_factory.GetMessageClass(native(field.containing_type))()
    if path == ("required",) or rule == "min_items":
        return message
    if rule == "max_pairs":
        getattr(message, field.name).update({f"k{number}": "" for number in range(value + 1)})
    elif rule in ("max_items", "unique"):
        many = value + 1 if rule == "max_items" else 2
        if field.message_type is not None:
            for _ in range(many):
                getattr(message, field.name).add()
        else:
            item: Any = "a" if field.type == FieldDescriptor.TYPE_STRING else 1
            getattr(message, field.name).extend([item] * many)
    elif kind == "map":
        bad = bad_value(rule, value)
        getattr(message, field.name).update({bad: ""} if path[1] == "keys" else {"a": bad})
    elif kind == "repeated":
        getattr(message, field.name).append(bad_value(rule, value))
    elif kind == "bytes":
        setattr(message, field.name, b"x" * (value - 1 if rule == "min_len" else value + 1))
    elif field.message_type is not None:
        for name, part in bad_value(rule, value).items():
            setattr(getattr(message, field.name), name, part)
    else:
        setattr(message, field.name, bad_value(rule, value))
    return message


def native(descriptor: Any) -> Any:
    """The descriptor of the generated class, which knows the extensions."""
    methods()  # imports every file of the API
    pool: Any = record_service_pb2.DESCRIPTOR.pool
    return pool.FindMessageTypeByName(descriptor.full_name)


def fields() -> dict[str, FieldDescriptor]:
    return {
        field.full_name: field
        for method in apidescriptors.methods()
        for _, field in apidescriptors.fields_below(method.input_type)
    }


CASES = [
    pytest.param(field, path, value, id=f"{name.removeprefix('modelkeep.')}-{'.'.join(path)}")
    for name, field in fields().items()
    for path, value in single(rules_of(field))
    if path[-1] not in _NO_RULE
]


@pytest.mark.parametrize(("field", "path", "value"), CASES)
def test_every_broken_rule_is_told_as_a_sentence(
    field: FieldDescriptor, path: tuple[str, ...], value: Any
) -> None:
    """A new pattern: say in calls/sentences.py what a text of it is."""
    message = broken(field, path, value)
    found = [
        violation
        for violation in collector()(message)
        if violation.proto.field.elements[0].field_name == field.name
    ]
    rules = {violation.proto.rule_id.partition(".")[2] or violation.proto.rule_id for violation in found}
    assert any(path[-1] in rule for rule in rules), (path, rules)
    for violation in found:
        told = in_words(violation, native(message.DESCRIPTOR))
        assert told.field.startswith(field.name)
        assert _SENTENCE.match(told.description), told.description
        assert "^" not in told.description
        assert "may not have" not in told.description, "a pattern without words"


def test_a_choice_that_is_not_made_names_what_there_is() -> None:
    chosen = {
        oneof.full_name: oneof
        for message in apidescriptors.messages()
        for oneof in message.oneofs
        if OneofOptions.FromString(oneof.GetOptions().SerializeToString())
        .Extensions[validate_pb2.oneof]  # type: ignore[index]  # no types for extensions
        .required
    }
    in_requests = {
        oneof.full_name
        for field in fields().values()
        for oneof in [field.containing_oneof]
        if oneof is not None and oneof.name == "source"
    }
    assert in_requests
    assert in_requests == chosen.keys()
    for oneof in chosen.values():
        message = message_factory.GetMessageClass(native(oneof.containing_type))()
        (violation,) = collector()(message)
        told = in_words(violation, native(message.DESCRIPTOR)).words
        assert told.startswith("source needs ")
        assert all(arm.name in told for arm in oneof.fields)


def test_the_message_says_the_first_of_the_bad_fields_in_words() -> None:
    request = record_service_pb2.FindModelRequest(name="n")
    with pytest.raises(FieldInvalidException) as caught:
        Rules(native(request.DESCRIPTOR)).check(request)
    assert caught.value.message == "base must be set; type must be set"
    assert caught.value.metadata == {"fields": "base,type"}


def test_a_key_that_is_not_given_must_be_set_and_another_is_told_its_form() -> None:
    for key, words in (("", "must be set"), ("abc", "must be 32 characters of 0-9 and a-f")):
        request = record_service_pb2.GetModelRequest(key=key)
        with pytest.raises(FieldInvalidException) as caught:
            Rules(native(request.DESCRIPTOR)).check(request)
        assert caught.value.message == f"key {words}"


def test_maps_are_told_by_key() -> None:
    assert is_map(fields()["modelkeep.model.v1.Model.labels"])
    request = record_service_pb2.ListModelsRequest(filter={"labels": {"A": ""}})
    with pytest.raises(FieldInvalidException) as caught:
        Rules(native(request.DESCRIPTOR)).check(request)
    assert caught.value.message.startswith('filter.labels["A"]: its key must be 1 to 63 characters')


def test_no_service_says_that_fields_are_bad_without_saying_what() -> None:
    said = {
        str(path)
        for base in raisesites.SOURCES
        for path in base.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == "The request has bad fields."
    }
    assert said == set()
