"""Records as lines of JSON: what ``modelkeep export`` writes and ``modelkeep import`` reads.

The first line tells the format and the last that nothing was cut off. The others have one record each, or one
part of a record that is very large, as ``modelkeep.record.v1.ExportedModel`` in the JSON form of protobuf
with the names of the .proto files. Fields that this version does not know have no name to stand under: their
bytes stand beside, as base64, in ``unknown_fields`` by the path of what they belong to, and are whole again
once a version that knows them reads the line. Needs protobuf, not grpc.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError, SerializeToJsonError
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from modelkeep.jsontext import parse_json
from modelkeep.record.v1.exports_pb2 import ExportedModel

#: What the first line says, and the version of what follows.
FORMAT: Final = "modelkeep-export"
VERSION: Final = 1
#: Characters that a line may have; one of ours has about two million at most.
MAX_LINE: Final = 16 << 20
#: Bytes of one part of a record, about.
MAX_PART_BYTES: Final = 1 << 20

_UNKNOWN, _WIRE = "unknown_fields", "wire"
#: Fields of a record whose entries have no order.
_MAPS: Final = frozenset({"labels", "extra_fields"})
#: What an entry of a list takes besides its own bytes.
_FRAMING: Final = 8
#: A step on a path: a field, perhaps one of its entries.
_STEP: Final = re.compile(r"([a-z0-9_]+)(?:\[(\d+)\])?")


class Mark(Enum):
    """A line without a record."""

    BEGINNING = 1
    END = 2


def header(store_id: str, revision: int) -> str:
    """The first line of an export."""
    return _text({"format": FORMAT, "version": VERSION, "store_id": store_id, "revision": revision})


def end() -> str:
    """The last line of an export."""
    return _text({"format": FORMAT, "version": VERSION, "end": True})


def to_line(part: ExportedModel) -> str:
    """The line of a record, or of a part of one, without an end; nothing in it steers a terminal."""
    return _text(_described(part))


def _described(part: ExportedModel) -> dict[str, Any]:
    try:
        line = MessageToDict(part, preserving_proto_field_name=True)
    except SerializeToJsonError:  # as for a time that cannot be: JSON has no words for it
        return {_WIRE: _encoded(part.SerializeToString())}
    for name in _MAPS & line.get("model", {}).keys():  # the same record is the same line, each time
        line["model"][name] = dict(sorted(line["model"][name].items()))
    unknown = {path: _encoded(raw) for path, raw in _unknown_fields(part, "")}
    return {**line, _UNKNOWN: unknown} if unknown else line


def from_line(text: str) -> ExportedModel | Mark:
    """The record, or the part of one, that a line has; or which of the others it is.

    Raises:
        ValueError: It is no such line; its text says what, as it goes on after "is".
    """
    line = parse_json(text)
    if not isinstance(line, dict):
        raise ValueError("no JSON object")
    if "format" in line:
        _check_format(line)
        return Mark.END if line.get("end") else Mark.BEGINNING
    part = ExportedModel()
    unknown = line.pop(_UNKNOWN, {})
    try:
        part.ParseFromString(_decoded(line.pop(_WIRE, "")))
        ParseDict(line, part)
        if not isinstance(unknown, dict):
            raise ValueError(f"{_UNKNOWN} is no JSON object")
        for path, raw in unknown.items():
            _at(part, path).MergeFromString(_decoded(raw))
    except (ParseError, DecodeError, ValueError) as error:
        raise ValueError(f"no record: {str(error)[:200]}") from None
    return part


def in_parts(whole: ExportedModel) -> Iterator[ExportedModel]:
    """A record in so many parts that each fits a message; as it is, if it does."""
    if whole.ByteSize() <= MAX_PART_BYTES:
        yield whole
        return
    part = ExportedModel()
    part.CopyFrom(whole)
    del part.files[:]
    size = part.ByteSize()
    for file in whole.files:
        file_bytes = file.ByteSize() + _FRAMING
        if size + file_bytes > MAX_PART_BYTES:
            part.is_continued = True
            yield part
            part = ExportedModel(model={"key": whole.model.key}, is_continuation=True)
            size = part.ByteSize()
        part.files.append(file)
        size += file_bytes
    part.is_continued = whole.is_continued
    yield part


def _check_format(line: Mapping[str, Any]) -> None:
    if line["format"] != FORMAT:
        raise ValueError(f"no line of an export, but of {json.dumps(line['format'])[:80]}")
    version = line.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(
            f"of version {json.dumps(version)[:80]} of the format, and this program knows {VERSION}"
        )


def _unknown_fields(message: Message, path: str) -> Iterator[tuple[str, bytes]]:
    """The fields of a message and of those in it that this version does not know, by where they are."""
    if len(UnknownFieldSet(message)):
        shell = type(message)()
        shell.CopyFrom(message)
        for field, _ in message.ListFields():
            shell.ClearField(field.name)
        yield path, shell.SerializeToString()
    for field, value in message.ListFields():
        if not _is_message(field):
            continue
        step = f"{path}.{field.name}" if path else field.name
        inner = (
            [(f"{step}[{n}]", one) for n, one in enumerate(value)] if field.is_repeated else [(step, value)]
        )
        for where, one in inner:
            yield from _unknown_fields(one, where)


def _at(message: Message, path: str) -> Message:
    """The message at a path.

    Raises:
        ValueError: There is none.
    """
    for step in path.split(".") if path else ():
        found = _STEP.fullmatch(step)
        name, place = found.groups() if found else ("", None)
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None or not _is_message(field) or field.is_repeated != (place is not None):
            raise _nowhere(path)
        value: Any = getattr(message, name)
        if place is not None and int(place) >= len(value):
            raise _nowhere(path)
        message = value if place is None else value[int(place)]
    return message


def _is_message(field: Any) -> bool:
    """Whether a field has messages; the pairs of a map are none."""
    return field.message_type is not None and not field.message_type.GetOptions().map_entry


def _nowhere(path: str) -> ValueError:
    return ValueError(f"{_UNKNOWN} has the path {path[:80]!r}, which leads to nothing")


def _text(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("bytes must be base64 in a text")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("bytes are no base64") from None
