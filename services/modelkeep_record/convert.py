"""Messages to what the domain and the store use, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.server.v1 import watch_pb2
from modelkeep_common.urls import shown
from modelkeep_common.watch import Frame
from modelkeep_common.wire import to_micros

from .domain_query import Order, Query, search_text, split_words

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
        paths=frozenset(filter.paths),
        root_id=filter.root_id,
        hash=filter.hash,
        source=shown(filter.source),
        words=split_words(filter.text),
    )


def to_order(order: int) -> Order:
    """The order of a request."""
    return _ORDERS[order]


def to_columns(model: Model) -> dict[str, Any]:
    """A record as the columns of table ``models``."""
    return {
        "key": model.key,
        "message": model.SerializeToString(),
        "name": model.name,
        "type": model.type,
        "format": model.format,
        "base": model.base,
        "path": model.path,
        "root_id": model.root_id,
        "size_bytes": model.size_bytes,
        "original_hash": model.original_hash,
        "current_hash": model.current_hash,
        "source": model.source,
        "create_time_us": to_micros(model.create_time),
        "update_time_us": to_micros(model.update_time),
        "search": search_text(model),
    }


def to_bases(model: Model) -> set[str]:
    """Every base that a search finds the record by."""
    return {model.base, *model.compatible_bases}


def repeated_message(field_number: int, messages: list[bytes]) -> bytes:
    """The wire form of a repeated message field, of messages in their wire form.

    Rows hold records as they are sent, so that an answer of many is put together, not built anew.
    """
    tag = _varint(field_number << 3 | 2)
    return b"".join(part for message in messages for part in (tag, _varint(len(message)), message))


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


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
