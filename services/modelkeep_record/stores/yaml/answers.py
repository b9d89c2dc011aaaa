"""Answers for requests that come again, kept in memory: they are forgotten when the process ends."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from modelkeep_common.idempotency import KEEP_SECONDS, request_id_reused

from ..store import Once

#: What an answer takes besides its bytes.
_EXTRA_BYTES: Final = 512

_Name = tuple[str, str]


class _Answer(NamedTuple):
    fingerprint: bytes
    response: bytes
    create_time: float

    @property
    def size_bytes(self) -> int:
        return len(self.response) + _EXTRA_BYTES


class Answers:
    """The latest answers of each caller, all together of so many bytes.

    When they are more, the oldest of the caller go who has most.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: By caller, then by method and request id, the oldest first.
        self._kept: dict[str, dict[_Name, _Answer]] = {}
        self._sizes: dict[str, int] = {}

    def find(self, once: Once) -> bytes | None:
        """What the request was answered before.

        Raises:
            RequestIdReusedException: The id was used for a request with another body.
        """
        answer = self._kept.get(once.principal, {}).get((once.method, once.request_id))
        if not once.request_id or answer is None or answer.create_time < time.time() - KEEP_SECONDS:
            return None
        if answer.fingerprint != once.fingerprint:
            raise request_id_reused(once.request_id)
        return answer.response

    def keep(self, once: Once, response: bytes) -> None:
        """Remember an answer."""
        if not once.request_id:
            return
        self._forget(once.principal, (once.method, once.request_id))
        answer = _Answer(once.fingerprint, response, time.time())
        self._kept.setdefault(once.principal, {})[once.method, once.request_id] = answer
        self._sizes[once.principal] = self._sizes.get(once.principal, 0) + answer.size_bytes
        while sum(self._sizes.values()) > self._max_bytes:
            largest = max(self._sizes, key=lambda name: self._sizes[name])
            self._forget(largest, next(iter(self._kept[largest])))

    def _forget(self, principal: str, name: _Name) -> None:
        kept = self._kept.get(principal)
        if kept is None or (answer := kept.pop(name, None)) is None:
            return
        self._sizes[principal] -= answer.size_bytes
        if not kept:
            del self._kept[principal], self._sizes[principal]
