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
from .call import Call


class Telemetry:
    """Writes the lines of one server.

    Args:
        put: Takes a line; None writes nothing.
    """

    def __init__(self, put: Callable[[str], object] | None) -> None:
        self._put = put
        self._head = f'","severity":"INFO","service":{json.dumps(logs.service_name())},"message":'
        self._peers: dict[str, str] = {}

    def _peer(self, peer: str) -> str:
        quoted = self._peers.get(peer)
        if quoted is None:
            if len(self._peers) > 1000:
                self._peers.clear()
            quoted = self._peers[peer] = json.dumps(peer)
        return quoted

    def stream_opened(self, call: Call) -> None:
        """A stream has begun."""
        if self._put is not None:
            self._put(
                f'{{"ts":"{logs.timestamp(time.time())}{self._head}"stream opened","method":"{call.method}",'
                f'"peer":{self._peer(call.peer)},"request_id":"{call.request_id}",'
                f'"open_streams":{call.open_streams}}}'
            )

    def ended(self, call: Call, *, streams: bool) -> None:
        """A call has ended; ``streams``: it answered with a stream."""
        if self._put is None:
            return
        if streams:
            message, sizes = "stream closed", f'"messages":{call.messages},"bytes_out":{call.bytes_out},'
            sizes += f'"open_streams":{call.open_streams}'
        else:
            message, sizes = "rpc", f'"bytes_in":{call.bytes_in},"bytes_out":{call.bytes_out}'
        self._put(
            f'{{"ts":"{logs.timestamp(time.time())}{self._head}"{message}","method":"{call.method}",'
            f'"code":"{call.code}","reason":"{call.reason}",'
            f'"ms":{(time.perf_counter() - call.started) * 1000:.3f},"peer":{self._peer(call.peer)},'
            f'"request_id":"{call.request_id}",{sizes}}}'
        )
