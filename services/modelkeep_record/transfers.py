"""Records that leave the store as a whole and come into it: what of that concerns messages alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.record.v1 import exports_pb2 as pb
from modelkeep.record.v1.record_service_pb2 import CreateModelRequest
from modelkeep.records.lines import MAX_PART_BYTES, in_parts
from modelkeep_common.calls.validation import Rules
from modelkeep_common.watch.frames import chunked, message_size

from .domain.imports import Entry
from .stores.store import Export, Stored

#: Bytes that are read for one message of an export, about.
_READ_BYTES: Final = MAX_PART_BYTES // 2
#: All records of one import together.
MAX_IMPORT_BYTES: Final = 3 << 20
#: A newer version has values that this one does not know; they are kept.
_NOT_HELD_AGAINST: Final = ("enum.defined_only",)


def checked(request: pb.ImportModelsRequest) -> list[Entry]:
    """The records of a request, each with the rules of CreateModel that it breaks. Takes a while.

    Raises:
        FieldInvalidException: There is too much of it.
    """
    if request.ByteSize() > MAX_IMPORT_BYTES:
        problem = f"must have at most {MAX_IMPORT_BYTES:,} bytes together: send fewer at once"
        raise FieldInvalidException("", violations=[FieldViolation("models", problem)])
    descriptor: Any = CreateModelRequest.DESCRIPTOR
    rules = Rules(descriptor)
    entries = []
    for exported in request.models:
        create = CreateModelRequest(model=exported.model, files=exported.files)
        entries.append(Entry(exported, rules.violations(create, without=_NOT_HELD_AGAINST)))
    return entries


async def frames(export: Export) -> AsyncGenerator[pb.ExportModelsResponse, None]:
    """The messages of an export; one at least."""
    response = pb.ExportModelsResponse(revision=await export.revision())
    has_none = True
    while records := await export.take(_READ_BYTES):
        parts = [part for record in records for part in _parts(record)]
        for some in chunked(parts, message_size, len(parts), MAX_PART_BYTES):
            yield pb.ExportModelsResponse(models=some, revision=response.revision)
        has_none = False
    if has_none:
        yield response


def _parts(record: Stored) -> Iterator[pb.ExportedModel]:
    """A record, in several parts if it is too large for one message."""
    whole = pb.ExportedModel(cover_image=record.cover_image)
    whole.model.ParseFromString(record.model)
    for file in record.files:
        whole.files.add().ParseFromString(file)
    return in_parts(whole)
