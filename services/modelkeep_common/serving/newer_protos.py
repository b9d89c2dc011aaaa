"""Descriptors of the standard services that the installed packages lack, in a pool of their own.

Health's List came with a later grpc-health-checking than the floor of this project, and
grpc-reflection knows only its v1alpha. Both are well known, small, and the same on the wire as what is
there, so they are derived from it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from .apifiles import api_files


class LayeredPool:
    """What reflection asks of a pool: the API's files, then our additions, then all that there is."""

    def _first(self, look_up: str, name: str) -> Any:
        files: tuple[Any, ...] = (api_files(),) if look_up.startswith("FindFile") else ()
        for pool in (*files, additions(), descriptor_pool.Default()):
            try:
                return getattr(pool, look_up)(name)
            except KeyError:
                continue
        raise KeyError(name)

    def FindFileByName(self, name: str) -> Any:
        """As ``DescriptorPool``'s."""
        return self._first("FindFileByName", name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """As ``DescriptorPool``'s; a method's name stands for its service's file."""
        try:
            return self._first("FindFileContainingSymbol", symbol)
        except KeyError:
            parent, dot, _ = symbol.rpartition(".")
            if not dot:
                raise
            service = self._first("FindServiceByName", parent)
            if symbol.rsplit(".", 1)[-1] not in service.methods_by_name:
                raise
            return service.file

    def FindMessageTypeByName(self, name: str) -> Any:
        """As ``DescriptorPool``'s."""
        return self._first("FindMessageTypeByName", name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        """As ``DescriptorPool``'s."""
        return descriptor_pool.Default().FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        """As ``DescriptorPool``'s."""
        return descriptor_pool.Default().FindAllExtensions(message)


@cache
def additions() -> descriptor_pool.DescriptorPool:
    """grpc.health.v1 with List, and grpc.reflection.v1."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_health())
    pool.Add(_reflection_v1())
    return pool


def message_class(full_name: str) -> Any:
    """The message class of a type in :func:`additions`."""
    return message_factory.GetMessageClass(additions().FindMessageTypeByName(full_name))


def _health() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(file)
    if any(message.name == "HealthListResponse" for message in file.message_type):
        return file
    file.message_type.add(name="HealthListRequest")
    response = file.message_type.add(name="HealthListResponse")
    types = descriptor_pb2.FieldDescriptorProto
    response.field.add(
        name="statuses",
        number=1,
        label=types.LABEL_REPEATED,
        type=types.TYPE_MESSAGE,
        type_name=".grpc.health.v1.HealthListResponse.StatusesEntry",
    )
    entry = response.nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=types.LABEL_OPTIONAL, type=types.TYPE_STRING)
    entry.field.add(
        name="value",
        number=2,
        label=types.LABEL_OPTIONAL,
        type=types.TYPE_MESSAGE,
        type_name=".grpc.health.v1.HealthCheckResponse",
    )
    file.service[0].method.add(
        name="List",
        input_type=".grpc.health.v1.HealthListRequest",
        output_type=".grpc.health.v1.HealthListResponse",
    )
    return file


def _reflection_v1() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    file.ClearField("options")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return file
