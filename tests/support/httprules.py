"""By which verbs and paths a method is called over HTTP, as its option `google.api.http` says."""

from __future__ import annotations

from collections.abc import Iterator

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions


def rule_of(method: MethodDescriptor) -> http_pb2.HttpRule:
    options = MethodOptions.FromString(method.GetOptions().SerializeToString())
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    return rule


def bindings(method: MethodDescriptor) -> Iterator[tuple[str, str, str]]:
    """Verb, path and body of each way to call it."""
    rule = rule_of(method)
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        if verb is not None:
            yield verb, getattr(binding, verb), binding.body
