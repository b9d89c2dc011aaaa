"""The rules by which a gateway speaks the API over HTTP (proto/http.yaml), against the methods."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from support import apidescriptors
from support.httprules import bindings

_NAMES = [method.full_name for method in apidescriptors.methods()]
_METHODS = {method.full_name: method for method in apidescriptors.methods()}
#: Verbs without a body.
_BARE = {"get", "delete"}
_VARIABLE = re.compile(r"\{([^}]*)\}")


def field_at(method: MethodDescriptor, path: str) -> FieldDescriptor:
    *above, last = path.split(".")
    message = method.input_type
    for name in above:
        inner = message.fields_by_name[name].message_type
        assert inner is not None, path
        message = inner
    return message.fields_by_name[last]


def looks(method: MethodDescriptor) -> bool:
    options = MethodOptions.FromString(method.GetOptions().SerializeToString())
    return options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS


@pytest.mark.parametrize("name", _NAMES)
def test_a_method_has_a_rule_whose_verb_and_path_fit_it(name: str) -> None:
    method = _METHODS[name]
    ways = list(bindings(method))
    assert ways, f"{name} has no rule in proto/http.yaml"
    for verb, path, body in ways:
        assert re.fullmatch(r"/v1(/([a-zA-Z]+|\{[a-z_.]+\}))+(:[a-zA-Z]+)?", path), path
        assert body == ("" if verb in _BARE else "*"), path
        for variable in _VARIABLE.findall(path):
            field = field_at(method, variable)
            assert not field.is_repeated, path
            assert field.message_type is None, path
    if any(verb == "get" for verb, _, _ in ways):
        assert looks(method), f"{name} changes something, and a GET may be sent by anybody at any time"


@pytest.mark.parametrize("name", [name for name in _NAMES if name.rpartition(".")[2].startswith("Watch")])
def test_a_watch_is_one_get(name: str) -> None:
    verb, path, _ = next(bindings(_METHODS[name]))
    assert (verb, path.rpartition(":")[2]) == ("get", "watch")


def test_no_two_rules_take_the_same_request() -> None:
    taken = Counter(
        (verb, _VARIABLE.sub("*", path))
        for method in apidescriptors.methods()
        for verb, path, _ in bindings(method)
    )
    assert [way for way, count in taken.items() if count > 1] == []


@pytest.mark.parametrize("name", [name for name in _NAMES if looks(_METHODS[name])])
def test_what_a_query_cannot_say_can_be_posted(name: str) -> None:
    """A query has no maps."""
    method = _METHODS[name]
    has_map = any(
        field.message_type is not None and field.message_type.GetOptions().map_entry
        for _, field in apidescriptors.fields_below(method.input_type)
    )
    assert not has_map or "post" in {verb for verb, _, _ in bindings(method)}


def test_nothing_secret_stands_in_an_address() -> None:
    """Addresses are logged by whatever lies between."""
    secret = {
        f"{name}: {path}"
        for name, method in _METHODS.items()
        if any(verb in _BARE for verb, _, _ in bindings(method))
        for path, field in apidescriptors.fields_below(method.input_type)
        if field.GetOptions().debug_redact
    }
    assert secret == set()
