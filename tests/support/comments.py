"""The comments of a .proto file by the names of what they stand at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto


def of(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """(name, leading comment) of each service, method, message, field, enum and value; "" without one.

    Names are relative to the package: "GetModelRequest.key". What stands for the entries of a map is not
    an element of its own.
    """
    at = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def walk(
        items: Sequence[Any], number: int, path: tuple[int, ...], scope: str
    ) -> Iterator[tuple[str, str]]:
        for index, item in enumerate(items):
            here = (*path, number, index)
            if getattr(item.options, "map_entry", False):
                continue
            name = f"{scope}{item.name}"
            yield name, at.get(here, "")
            for kind, below in _CHILDREN.get(type(item).__name__, ()):
                yield from walk(_real(item, kind), below, here, f"{name}.")

    for kind, number in (("message_type", 4), ("enum_type", 5), ("service", 6)):
        yield from walk(getattr(file, kind), number, (), "")


#: Kind of descriptor → (its list of parts, the number of that list's field in descriptor.proto).
_CHILDREN = {
    "DescriptorProto": (("field", 2), ("nested_type", 3), ("enum_type", 4), ("oneof_decl", 8)),
    "EnumDescriptorProto": (("value", 2),),
    "ServiceDescriptorProto": (("method", 2),),
}


def _real(item: Any, kind: str) -> Sequence[Any]:
    """Without the oneofs that only stand for the presence of one field; those come last."""
    parts: Sequence[Any] = getattr(item, kind)
    if kind != "oneof_decl":
        return parts
    made = {field.oneof_index for field in item.field if field.proto3_optional}
    return [part for index, part in enumerate(parts) if index not in made]
