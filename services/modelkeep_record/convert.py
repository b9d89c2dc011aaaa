"""Messages to what the domain and the store use, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.server.v1 import watch_pb2
from modelkeep_common.urls import shown
from modelkeep_common.watch import Frame

from .domain.query import Order, Query, split_words

#: What MODEL_VIEW_BASIC leaves out.
_NOT_BASIC: Final = (
    "original_hash",
    "current_hash",
    "description",
    "source",
    "source_type",
    "trigger_phrases",
    "license",
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
    )


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
