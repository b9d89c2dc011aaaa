"""The calls of RecordService inside this process: checked, carried out and answered as by the service."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import covers_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.records import RecordMethods, read_picture
from modelkeep_common.calls.validation import Rules, rules_of
from modelkeep_common.paths import ensure_marker
from modelkeep_common.startup import StartupError

from .. import convert, units
from ..domain import rules
from ..domain.covers import Cover, no_cover
from ..domain.query import Order, Query
from ..stores.store import Unit


class Shelf(Protocol):
    """Records at hand: what :class:`LocalRecords` wants of what they are kept in."""

    def get(self, key: str) -> bytes | None:
        """The record of a key."""
        ...

    def find(self, name: str, base: str, type: int) -> tuple[int, bytes]:
        """How many records have exactly this name, base and type, and one of them (b"" if none)."""
        ...

    def list(self, query: Query, order: Order, descending: bool) -> list[bytes]:
        """The records that a query asks for."""
        ...

    def look(self, unit: Unit) -> bytes:
        """Run a unit of work that writes nothing, on records as they are now."""
        ...

    def write(self, unit: Unit) -> bytes:
        """Run a unit of work in one transaction; one that raises leaves no trace."""
        ...

    def close(self) -> None:
        """Close what was opened for it."""
        ...


class LocalRecords(RecordMethods):
    """The original's methods on a shelf; none of them ever waits.

    Args:
        shelf: The records.
        models_path: The folder of installed models, if it is known: a search by path finds what lies in it
            by its absolute path, too.
    """

    def __init__(self, shelf: Shelf, models_path: Path | None = None) -> None:
        self._shelf = shelf
        self._models_path = models_path

    async def _get(self, request: pb.GetModelRequest) -> Model:
        _check(request)
        message = self._shelf.get(request.key)
        if message is None:
            raise rules.unknown_model(request.key)
        return Model.FromString(message)

    async def _find(self, request: pb.FindModelRequest) -> Model:
        _check(request)
        count, message = self._shelf.find(request.name, request.base, request.type)
        if count != 1:
            type_name = taxonomy_pb2.ModelType.Name(request.type)
            raise rules.not_the_only_one(count, request.name, request.base, type_name)
        return Model.FromString(message)

    async def _list(self, request: pb.ListModelsRequest) -> list[Model]:
        _check(request)
        query, order = convert.to_query(request.filter), convert.to_order(request.order)
        return [Model.FromString(message) for message in self._shelf.list(query, order, request.descending)]

    async def _create(self, request: pb.CreateModelRequest) -> Model:
        _check(request)
        return pb.CreateModelResponse.FromString(self._shelf.write(units.creating(request))).model

    async def _change(self, request: pb.UpdateModelRequest) -> pb.UpdateModelResponse:
        _check(request)
        run = self._shelf.look if request.validate_only else self._shelf.write
        return pb.UpdateModelResponse.FromString(run(units.updating(request)))

    async def _delete(self, request: pb.DeleteModelRequest) -> None:
        _check(request)
        self._shelf.write(units.deleting(request))

    async def _set_cover(self, request: covers_pb2.SetCoverImageRequest) -> Model:
        _check(request)
        unit = units.covering(request, Cover.of(request.image))
        return covers_pb2.SetCoverImageResponse.FromString(self._shelf.write(unit)).model

    async def _get_cover(self, request: covers_pb2.GetCoverImageRequest) -> bytes:
        _check(request)

        async def unit(records: rules.Records) -> bytes:
            cover = await records.cover(request.key)
            if cover is None:
                there = await records.get(request.key) is not None
                raise no_cover(request.key) if there else rules.unknown_model(request.key)
            return cover.image

        return self._shelf.look(unit)

    async def _delete_cover(self, request: covers_pb2.DeleteCoverImageRequest) -> Model:
        _check(request)
        unit = units.covering(request, None)
        return covers_pb2.DeleteCoverImageResponse.FromString(self._shelf.write(unit)).model

    async def _read(self, path: os.PathLike[str] | str) -> bytes:
        return read_picture(path)

    async def _find_roots(self) -> Sequence[tuple[str, str]]:
        if self._models_path is None:
            return ()
        try:
            root_id = ensure_marker(self._models_path, create=False)
        except StartupError:  # no installer has been there yet
            root_id = ""
        return ((str(self._models_path), root_id),)


def _check(request: Message) -> None:
    """Hold a request to the rules in its .proto. Raises FieldInvalidException."""
    checked = _rules(request.DESCRIPTOR)
    if checked is not None:
        checked.check(request, request.ByteSize())


@cache
def _rules(descriptor: Descriptor) -> Rules | None:
    return rules_of(descriptor)
