"""Components of one request, as the stream of the lease on all of them tells that they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modelkeep.exceptions import ModelkeepError
from modelkeep.loader.v1 import hold_pb2, load_pb2, resident_pb2
from modelkeep.worker._binding import Lender
from modelkeep.worker._hold import Hold
from modelkeep.worker.arriving import ArrivingParts
from support.waiting import wait_until

NAMES = ("text_encoder", "unet")


class Stream:
    """What a loader says of a lease on all components, frame by frame."""

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[hold_pb2.HoldModelResponse | None] = queue.SimpleQueue()
        self.released: list[str] = []
        self.leased: list[str] = []

    def HoldModel(self, request: hold_pb2.HoldModelRequest) -> Stream:
        return self

    def __iter__(self) -> Iterator[hold_pb2.HoldModelResponse]:
        return iter(self._frames.get, None)

    def cancel(self) -> None:
        self._frames.put(None)

    def come_to(self, index: int) -> None:
        progress = load_pb2.LoadProgress(index=index, count=len(NAMES))
        self._frames.put(hold_pb2.HoldModelResponse(progress=progress))

    def grant(self) -> None:
        granted = hold_pb2.Grant(lease=resident_pb2.Lease(id="all"))
        self._frames.put(hold_pb2.HoldModelResponse(granted=granted))

    def parts(self) -> ArrivingParts:
        lender = SimpleNamespace(stub=self, release=lambda grant: self.released.append(grant.lease.id))
        refs = [resident_pb2.ComponentRef(key=name) for name in NAMES]
        request = hold_pb2.HoldModelRequest(components=refs)
        return ArrivingParts(cast(Lender, lender), request, self._acquire, NAMES)

    def _acquire(self, refs: Sequence[resident_pb2.ComponentRef]) -> Hold:
        (ref,) = refs
        self.leased.append(ref.key)
        hold: Any = SimpleNamespace(modules=[ref.key], release=lambda: self.released.append(ref.key))
        return cast(Hold, hold)


def test_nothing_is_leased_by_whoever_has_left() -> None:
    stream = Stream()
    with (parts := stream.parts()):
        stream.grant()
        assert parts["text_encoder"] == "text_encoder"
    assert stream.released == ["all", "text_encoder"]
    with pytest.raises(ModelkeepError, match="not held any more"):
        _ = parts["unet"]
    assert stream.leased == ["text_encoder"], "nobody would release another"


def test_what_had_come_is_waited_for_again_where_room_is_looked_for_anew() -> None:
    stream, found = Stream(), list[Any]()
    with stream.parts() as parts:
        stream.come_to(1)
        wait_until(lambda: parts.is_there("text_encoder"))
        stream.come_to(0)
        wait_until(lambda: not parts.is_there("text_encoder"))
        waiting = threading.Thread(target=lambda: found.append(parts["text_encoder"]), daemon=True)
        waiting.start()
        waiting.join(0.1)
        assert not stream.leased, "it would take room for itself"
        stream.come_to(1)
        waiting.join(20)
    assert found == ["text_encoder"]
