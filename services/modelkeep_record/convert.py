"""Messages to what the domain and the store use, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.server.v1 import watch_pb2
from modelkeep_common.urls import shown
from modelkeep_common.watch import Frame
from modelkeep_common.wire import clamped_timestamp, to_micros

from .domain.query import Bounds, Order, Query, folded, split_words

#: What MODEL_VIEW_BASIC leaves out.
_NOT_BASIC: Final = (
    "original_hash",
    "current_hash",
    "description",
    "source",
    "source_type",
    "trigger_phrases",
    "license",
    "preview_url",
    "source_url",
    "default_settings",
    "related_keys",
    "extra_fields",
)

_ORDERS: Final[Mapping[int, Order]] = {
    pb.MODEL_ORDER_UNSPECIFIED: Order.NAME,
    pb.MODEL_ORDER_NAME: Order.NAME,
    pb.MODEL_ORDER_TYPE: Order.TYPE,
    pb.MODEL_ORDER_SIZE: Order.SIZE,
    pb.MODEL_ORDER_CREATE_TIME: Order.CREATE_TIME,
    pb.MODEL_ORDER_UPDATE_TIME: Order.UPDATE_TIME,
    pb.MODEL_ORDER_PATH: Order.PATH,
}

_PHASES: Final = {"SNAPSHOT": watch_pb2.WATCH_PHASE_SNAPSHOT, "LIVE": watch_pb2.WATCH_PHASE_LIVE}


def to_query(filter: pb.ModelFilter) -> Query:
    """The filter of a request."""
    return Query(
        name=filter.name,
        bases=frozenset(filter.bases),
        types=frozenset(filter.types),
        formats=frozenset(filter.formats),
        tags=frozenset(filter.tags),
        labels=tuple(sorted(filter.labels.items())),
        paths=frozenset(filter.paths),
        root_id=filter.root_id,
        hash=filter.hash,
        source=shown(filter.source),
        words=split_words(filter.text),
        keys=frozenset(filter.keys),
        key_prefix=filter.key_prefix,
        related_to=filter.related_to,
        name_folded=folded(filter.name_caseless),
        missing=filter.missing if filter.HasField("missing") else None,
        size_bytes=_bounds(filter, "min_size_bytes", "max_size_bytes"),
        create_time_us=_times(filter, "create_time"),
        update_time_us=_times(filter, "update_time"),
        files=frozenset(filter.files),
    )


def _bounds(filter: pb.ModelFilter, least: str, most: str) -> Bounds:
    return Bounds(*(getattr(filter, name) if filter.HasField(name) else None for name in (least, most)))


def _times(filter: pb.ModelFilter, name: str) -> Bounds:
    start, end = (
        to_micros(clamped_timestamp(getattr(filter, field))) if filter.HasField(field) else None
        for field in (f"{name}_from", f"{name}_before")
    )
    return Bounds(start, None if end is None else end - 1)


def to_order(order: int) -> Order:
    """The order of a request."""
    return _ORDERS[order]


def to_basic(model: Model) -> None:
    """Reduce a record to what MODEL_VIEW_BASIC shows."""
    for name in _NOT_BASIC:
        model.ClearField(name)
    if arm := model.WhichOneof("config"):
        model.ClearField(arm)


def to_watch_response(frame: Frame[Model]) -> pb.WatchModelsResponse:
    """A frame of a watch."""
    return pb.WatchModelsResponse(
        phase=_PHASES[frame.phase],
        snapshot_complete=frame.snapshot_complete,
        resume_token=frame.resume_token,
        events=[
            pb.ModelEvent(revision=event.revision, removed_key=event.resource_id)
            if event.put is None
            else pb.ModelEvent(revision=event.revision, put=event.put)
            for event in frame.events
        ],
    )
