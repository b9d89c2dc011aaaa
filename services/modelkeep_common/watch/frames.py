"""What a watch delivers: frames of events, and the bytes that many watchers share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

M = TypeVar("M")

Phase = Literal["SNAPSHOT", "LIVE"]


class Serializable(Protocol):
    """A protobuf message, as far as this module cares."""

    def SerializeToString(self) -> bytes:
        """The message's wire form."""
        ...


@dataclass(frozen=True, slots=True)
class Event(Generic[M]):
    """One resource as it is now (``put``), or that it is gone or left the filter (``removed``).

    ``revision`` is 0 in a snapshot and for progress: those are states, not changes.
    """

    revision: int
    resource_id: str
    put: M | None = None
    removed: bool = False
    progress: bool = False


@dataclass(slots=True)
class Frame(Generic[M]):
    """Several events at once and the token to go on from after them; without events, a bookmark."""

    phase: Phase
    resume_token: str
    events: list[Event[M]] = field(default_factory=list)
    #: True on the last frame of a snapshot.
    snapshot_complete: bool = False
    #: True when other watchers get this very frame, so that its bytes are worth keeping.
    shared: bool = False
    #: About what it takes in memory, and how many watchers hold it; see budget.py.
    size_bytes: int = field(default=0, compare=False)
    holders: int = field(default=0, repr=False, compare=False)
    _encoded: dict[Hashable, bytes] = field(default_factory=dict, repr=False, compare=False)

    def encoded(self, build_response: Callable[[Frame[M]], Serializable]) -> bytes:
        """The response message's bytes, made once for all watchers that share this frame.

        ``build_response`` should be a module-level function or a method: those compare equal from
        call to call, a new lambda does not and would be called for each watcher.
        """
        if not self.shared:
            return build_response(self).SerializeToString()
        data = self._encoded.get(build_response)
        if data is None:
            data = self._encoded[build_response] = build_response(self).SerializeToString()
        return data


def chunked(
    items: Iterable[Any], size_of: Callable[[Any], int], max_items: int, max_bytes: int
) -> list[list[Any]]:
    """Cut ``items`` into runs of at most ``max_items`` and about ``max_bytes`` bytes, none empty."""
    chunks: list[list[Any]] = []
    chunk: list[Any] = []
    size = 0
    for item in items:
        item_size = size_of(item)
        if chunk and (len(chunk) >= max_items or size + item_size > max_bytes):
            chunks.append(chunk)
            chunk, size = [], 0
        chunk.append(item)
        size += item_size
    if chunk:
        chunks.append(chunk)
    return chunks


def message_size(message: object) -> int:
    """A message's wire size in bytes; 0 for what has none (plain objects in tests)."""
    size = getattr(message, "ByteSize", None)
    return cast(int, size()) if size is not None else 0
