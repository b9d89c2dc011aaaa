"""What every .proto file says to the generators of other languages."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileOptions

from support import apidescriptors


@pytest.mark.parametrize("file", apidescriptors.files(), ids=lambda file: str(file.name))
def test_a_file_says_for_every_language_what_follows_from_its_package(file: FileDescriptor) -> None:
    root, part, version = file.package.split(".")
    stem = PurePosixPath(file.name).stem
    assert str(PurePosixPath(file.name).parent) == f"{root}/{part}/{version}"
    said = FileOptions()
    said.ParseFromString(file.GetOptions().SerializeToString())
    assert said == FileOptions(
        csharp_namespace=f"Modelkeep.{part.title()}.{version.upper()}",
        go_package=f"modelkeep.dev/go/modelkeep/{part}/{version};{part}{version}",
        java_multiple_files=True,
        java_outer_classname="".join(word.title() for word in stem.split("_")) + "Proto",
        java_package=f"dev.modelkeep.{part}.{version}",
    )


def test_no_message_has_the_name_of_its_files_outer_class_in_java() -> None:
    for file in apidescriptors.files():
        names = [*file.message_types_by_name, *file.enum_types_by_name, *file.services_by_name]
        assert file.GetOptions().java_outer_classname not in names


def test_no_field_is_called_as_the_bytes_of_a_text_beside_it() -> None:
    """Java reads the bytes of a text ``device`` by getDeviceBytes(), and so a number ``device_bytes``."""
    clashes = [
        f"{message.full_name}.{field.name}"
        for message in apidescriptors.messages()
        for field in message.fields
        if field.type == field.TYPE_STRING and f"{field.name}_bytes" in message.fields_by_name
    ]
    assert not clashes
