"""All records out of a store as lines of JSON, and into another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from modelkeep.client._transport import Peer
from modelkeep.exceptions import ConflictException, FieldViolation, InvalidRequestException, ModelkeepError
from modelkeep.messages import made
from modelkeep.record.v1 import exports_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceStub
from modelkeep.records import lines, reading

if TYPE_CHECKING:
    from modelkeep.record.v1.record_service_pb2_grpc import RecordServiceAsyncStub

#: What becomes of a record that is there already and is not equal.
OnConflict: TypeAlias = Literal["skip", "replace", "fail"]
#: What becomes of a record.
Outcome: TypeAlias = Literal["created", "unchanged", "skipped", "replaced", "refused"]
#: Where an export is: the path of a file, a file that can be sought in, or the lines.
ExportSource: TypeAlias = str | os.PathLike[str] | IO[bytes] | Iterable[str]

#: Longer than a service lets an export take, unless it was set so.
_EXPORT_S: Final = 3600.0
_OUTCOMES: Final[dict[int, Outcome]] = {
    exports_pb2.IMPORT_OUTCOME_CREATED: "created",
    exports_pb2.IMPORT_OUTCOME_UNCHANGED: "unchanged",
    exports_pb2.IMPORT_OUTCOME_SKIPPED: "skipped",
    exports_pb2.IMPORT_OUTCOME_REPLACED: "replaced",
    exports_pb2.IMPORT_OUTCOME_REFUSED: "refused",
}
#: How a bad field of one of several records is named by the service.
_OF_ONE: Final = re.compile(r"models\[0\]\.(?:model\.)?")


class ImportedRecord(NamedTuple):
    """What became of one record of an import.

    Attributes:
        line: The number of its line, from 1.
        key: Its key.
        name: Its name.
        outcome: Whether it was made, was there just so, was left as it was, replaced, or refused.
        reason: Why it was not taken, or what is odd about it; an error's reason, "" for nothing.
        message: The same in words.
    """

    line: int
    key: str
    name: str
    outcome: Outcome
    reason: str
    message: str


async def export(peer: Peer, wanted: pb.ModelFilter, *, with_covers: bool) -> AsyncGenerator[str]:
    """The lines of an export."""
    stub: RecordServiceAsyncStub = RecordServiceStub(peer.stream_channel)
    info = await peer.call(RecordServiceStub(peer.channel).GetStoreInfo, pb.GetStoreInfoRequest())
    request = made(pb.ExportModelsRequest, filter=wanted, with_covers=with_covers)
    frames = peer.stream(stub.ExportModels, request, timeout=_EXPORT_S)
    begun = False
    async with contextlib.aclosing(frames):
        async for frame in frames:
            if not begun:
                begun = True
                yield lines.header(info.store_id, frame.revision)
            for part in frame.models:
                yield lines.to_line(part)
    yield lines.end()


async def import_lines(
    peer: Peer, source: ExportSource, on_conflict: OnConflict, *, validate_only: bool
) -> AsyncGenerator[ImportedRecord]:
    """Import an export whose every line is good; what becomes of each record."""
    opened = reading.opener(source)
    await asyncio.to_thread(reading.check, opened)
    if on_conflict == "fail" and not validate_only:
        async for _ in _run(peer, opened, on_conflict, validate_only=True):
            pass
    async for record in _run(peer, opened, on_conflict, validate_only=validate_only):
        yield record


async def _run(
    peer: Peer, opened: reading.Open, on_conflict: OnConflict, *, validate_only: bool
) -> AsyncGenerator[ImportedRecord]:
    left_out: set[str] = set()
    last: ImportedRecord | None = None
    found = reading.batches(opened)
    while batch := await asyncio.to_thread(_next, found):
        # What is not stored has no record whose further parts could be looked at.
        sent = [
            line
            for line in batch
            if not line.part.is_continuation or not (validate_only or line.part.model.key in left_out)
        ]
        for line, result in await _send(peer, sent, on_conflict, validate_only=validate_only):
            record = ImportedRecord(
                line.number,
                line.part.model.key,
                line.part.model.name,
                _OUTCOMES[result.outcome],
                result.reason,
                result.message,
            )
            if record.outcome in ("skipped", "refused"):
                left_out.add(record.key)
            if not line.part.is_continuation:
                if last is not None:
                    yield last
                last = record
            elif last is not None:
                last = _with_part(last, record)
    if last is not None:
        yield last


def _next(found: Iterator[list[reading.Line]]) -> list[reading.Line]:
    return next(found, [])


def _with_part(record: ImportedRecord, part: ImportedRecord) -> ImportedRecord:
    """What became of a record, with a further part of it."""
    if part.outcome == "refused" and record.outcome != "refused":
        return part._replace(name=record.name, message=f"A part of it is missing: {part.message}")
    if part.outcome == "replaced" and record.outcome == "unchanged":
        return record._replace(outcome="replaced")
    return record


async def _send(
    peer: Peer, batch: list[reading.Line], on_conflict: OnConflict, *, validate_only: bool
) -> list[tuple[reading.Line, exports_pb2.ImportedModel]]:
    """One call; an error that is about one of several records names its line."""

    async def call(some: list[reading.Line], *, only_told: bool) -> list[exports_pb2.ImportedModel]:
        request = made(
            exports_pb2.ImportModelsRequest,
            models=[line.part for line in some],
            on_conflict=f"IMPORT_CONFLICT_{on_conflict.upper()}",
            validate_only=only_told,
        )
        stub: RecordServiceAsyncStub = RecordServiceStub(peer.channel)
        return list((await peer.call(stub.ImportModels, request)).results)

    if not batch:
        return []
    try:
        return list(zip(batch, await call(batch, only_told=validate_only), strict=True))
    except ModelkeepError as error:
        if not isinstance(error, InvalidRequestException | ConflictException):
            raise
        for line in batch:
            try:
                await call([line], only_told=True)
            except ModelkeepError as of_line:
                raise _at_line(line.number, of_line) from None
        raise


def _at_line(number: int, error: ModelkeepError) -> ModelkeepError:
    if not error.violations:
        return type(error)(f"Line {number}: {error.message}", metadata=error.metadata)
    violations = [
        FieldViolation(f"line {number}: {_OF_ONE.sub('', violation.field)}", violation.description)
        for violation in error.violations
    ]
    metadata = {name: value for name, value in error.metadata.items() if name != "fields"}
    return type(error)("", violations=violations, metadata=metadata)
