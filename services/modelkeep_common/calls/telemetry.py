"""One JSON line per call. Built by hand, since it is on the path of every call.

Fields: ``method``, ``code`` (gRPC status), ``reason`` (ErrorInfo, on errors), ``ms``, ``peer``,
``request_id``, ``bytes_in``, ``bytes_out``; for streams a line when they open, and ``messages`` when
they close.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from .. import logs


class Telemetry:
    """Writes the lines of one server.

    Args:
        put: Takes a line; None writes nothing.
    """

    def __init__(self, put: Callable[[str], object] | None) -> None:
        self._put = put
        self._head = f'","severity":"INFO","service":{json.dumps(logs.service_name())},"message":'
        self._peers: dict[str, str] = {}

    @property
    def on(self) -> bool:
        """Whether anything is written."""
        return self._put is not None

    def _peer(self, peer: str) -> str:
        quoted = self._peers.get(peer)
        if quoted is None:
            if len(self._peers) > 1000:
                self._peers.clear()
            quoted = self._peers[peer] = json.dumps(peer)
        return quoted

    def call(
        self,
        method: str,
        code: str,
        reason: str,
        seconds: float,
        peer: str,
        request_id: str,
        bytes_in: int,
        bytes_out: int,
    ) -> None:
        """A unary call has ended."""
        if self._put is not None:
            self._put(
                f'{{"ts":"{logs.timestamp(time.time())}{self._head}"rpc","method":"{method}","code":"{code}",'
                f'"reason":"{reason}","ms":{seconds * 1000:.3f},"peer":{self._peer(peer)},'
                f'"request_id":"{request_id}","bytes_in":{bytes_in},"bytes_out":{bytes_out}}}'
            )

    def stream_opened(self, method: str, peer: str, request_id: str, open_streams: int) -> None:
        """A stream has begun."""
        if self._put is not None:
            self._put(
                f'{{"ts":"{logs.timestamp(time.time())}{self._head}"stream opened","method":"{method}",'
                f'"peer":{self._peer(peer)},"request_id":"{request_id}","open_streams":{open_streams}}}'
            )

    def stream_closed(
        self,
        method: str,
        code: str,
        reason: str,
        seconds: float,
        peer: str,
        request_id: str,
        messages: int,
        bytes_out: int,
        open_streams: int,
    ) -> None:
        """A stream has ended."""
        if self._put is not None:
            self._put(
                f'{{"ts":"{logs.timestamp(time.time())}{self._head}"stream closed","method":"{method}",'
                f'"code":"{code}","reason":"{reason}","ms":{seconds * 1000:.3f},"peer":{self._peer(peer)},'
                f'"request_id":"{request_id}","messages":{messages},"bytes_out":{bytes_out},'
                f'"open_streams":{open_streams}}}'
            )
