"""The whole API as its descriptor set tells it: what tests walk that hold for every file, field or method."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import modelkeep

#: What `make proto` writes: every file with its imports and its comments.
DESCRIPTOR_SET = Path(modelkeep.__file__).parent / "api.binpb"


@cache
def descriptor_set() -> FileDescriptorSet:
    """Every file of the API and what it imports, with comments."""
    return FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Every file of the API and what it imports."""
    found = descriptor_pool.DescriptorPool()
    for file in descriptor_set().file:
        found.Add(file)
    return found


@cache
def files() -> list[FileDescriptor]:
    """Our own files."""
    everything = descriptor_set().file
    return [pool().FindFileByName(file.name) for file in everything if file.package.startswith("modelkeep.")]


def messages() -> Iterator[Descriptor]:
    """Our own messages, nested ones too; not the entries of maps."""

    def below(message: Descriptor) -> Iterator[Descriptor]:
        if not message.GetOptions().map_entry:
            yield message
        for nested in message.nested_types:
            yield from below(nested)

    for file in files():
        for message in file.message_types_by_name.values():
            yield from below(message)


def methods() -> Iterator[MethodDescriptor]:
    """Our own methods."""
    for file in files():
        for service in file.services_by_name.values():
            yield from service.methods


def fields_below(message: Descriptor) -> Iterator[tuple[str, FieldDescriptor]]:
    """Each field that can occur in `message`, with its path: "filter.types"; recursion is cut."""

    def below(
        current: Descriptor, prefix: str, seen: tuple[Descriptor, ...]
    ) -> Iterator[tuple[str, FieldDescriptor]]:
        for field in current.fields:
            path = prefix + field.name
            yield path, field
            inner = field.message_type
            if inner is not None and inner not in seen and inner.full_name.startswith("modelkeep."):
                yield from below(inner, f"{path}.", (*seen, inner))

    yield from below(message, "", (message,))
