"""The units of work behind the calls that change records, for whoever runs them; see stores/store.py."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelkeep.record.v1 import covers_pb2
from modelkeep.record.v1 import record_service_pb2 as pb

from .domain import rules
from .domain.covers import Cover
from .stores.store import Unit


def creating(request: pb.CreateModelRequest) -> Unit:
    """Store a new record; returns a CreateModelResponse."""

    async def unit(records: rules.Records) -> bytes:
        model = await rules.create(records, request.model, request.files, time.time())
        return pb.CreateModelResponse(model=model, revision=model.revision).SerializeToString()

    return unit


def updating(
    request: pb.UpdateModelRequest, check_may_look: Callable[[str], None] = lambda field: None
) -> Unit:
    """Change a record; returns an UpdateModelResponse. ``check_may_look``: see :func:`rules.update`.

    Raises:
        FieldInvalidException: There are files, but it is not said that they are meant.
    """
    rules.check_files_are_meant(request.files, request.replace_files)
    mask = request.update_mask if request.HasField("update_mask") else None
    files = request.files if request.replace_files else None

    async def unit(records: rules.Records) -> bytes:
        model, lost = await rules.update(
            records,
            request.model,
            mask,
            files,
            time.time(),
            check_may_look,
            validate_only=request.validate_only,
        )
        answer = pb.UpdateModelResponse(model=model, revision=model.revision, lost_fields=lost)
        return answer.SerializeToString()

    return unit


def covering(
    request: covers_pb2.SetCoverImageRequest | covers_pb2.DeleteCoverImageRequest, cover: Cover | None
) -> Unit:
    """Give a model a picture, or None; returns the response of the request's call."""
    is_set = isinstance(request, covers_pb2.SetCoverImageRequest)
    answer = covers_pb2.SetCoverImageResponse if is_set else covers_pb2.DeleteCoverImageResponse

    async def unit(records: rules.Records) -> bytes:
        model = await rules.set_cover(records, request.key, request.etag, cover, time.time())
        return answer(model=model, revision=model.revision).SerializeToString()

    return unit


def deleting(request: pb.DeleteModelRequest) -> Unit:
    """Delete a record; returns a DeleteModelResponse."""

    async def unit(records: rules.Records) -> bytes:
        model, revision = await rules.delete(records, request.key, request.etag, time.time())
        return pb.DeleteModelResponse(model=model, revision=revision).SerializeToString()

    return unit
