"""The .proto files of the API with their comments, for reflection: generated Python descriptors have none.

They come from the descriptor set that the Python package ships. It is read when somebody first asks, since
most processes are never asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

import modelkeep

_DESCRIPTOR_SET = Path(modelkeep.__file__).parent / "api.binpb"


class ApiFile:
    """One file; what the reflection servicer asks of a ``FileDescriptor``."""

    def __init__(self, proto: FileDescriptorProto, files: Mapping[str, ApiFile]) -> None:
        self.name = proto.name
        self._serialized = proto.SerializeToString()
        self._imports = tuple(proto.dependency)
        self._files = files

    @property
    def dependencies(self) -> list[ApiFile]:
        """The files that it imports."""
        return [self._files[name] for name in self._imports]

    def CopyToProto(self, proto: FileDescriptorProto) -> None:
        """As ``FileDescriptor``'s, with the comments."""
        proto.ParseFromString(self._serialized)


class ApiFiles:
    """The files by name, and by what they define."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._by_name: dict[str, ApiFile] = {}
        self._by_symbol: dict[str, ApiFile] = {}
        for proto in files.file:
            file = self._by_name[proto.name] = ApiFile(proto, self._by_name)
            self._by_symbol.update(dict.fromkeys(symbols(proto), file))

    def FindFileByName(self, name: str) -> ApiFile:
        """As ``DescriptorPool``'s."""
        return self._by_name[name]

    def FindFileContainingSymbol(self, symbol: str) -> ApiFile:
        """As ``DescriptorPool``'s."""
        return self._by_symbol[symbol]


@cache
def api_files() -> ApiFiles:
    """The files; the first call reads them, and blocks for that."""
    return ApiFiles(FileDescriptorSet.FromString(_DESCRIPTOR_SET.read_bytes()))


def symbols(file: FileDescriptorProto) -> Iterator[str]:
    """The full name of everything that a file defines."""
    yield from _in_scope(file.package, file)
    for service in file.service:
        name = f"{file.package}.{service.name}"
        yield name
        yield from (f"{name}.{method.name}" for method in service.method)


def _in_scope(scope: str, holder: FileDescriptorProto | DescriptorProto) -> Iterator[str]:
    nested: Any = holder.message_type if isinstance(holder, FileDescriptorProto) else holder.nested_type
    for enum in holder.enum_type:
        yield f"{scope}.{enum.name}"
        # A value is named beside its enum, not inside.
        yield from (f"{scope}.{value.name}" for value in enum.value)
    yield from (f"{scope}.{extension.name}" for extension in holder.extension)
    for message in nested:
        name = f"{scope}.{message.name}"
        yield name
        yield from (f"{name}.{part.name}" for part in (*message.field, *message.oneof_decl))
        yield from _in_scope(name, message)
