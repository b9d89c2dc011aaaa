"""A web server that is none: sessions of `requests` with adapters that answer, as in the original's tests."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse


class SimulatedSource(BaseAdapter):
    """Answers every request with the same content.

    Args:
        content: The body.
        headers: Header fields beside Content-Length.
        status: The status.
        rate: Bytes a second; None: all at once.
    """

    def __init__(
        self,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        status: int = 200,
        rate: int | None = None,
    ) -> None:
        super().__init__()
        self.content, self.status, self.rate = content, status, rate
        self.headers = {"Content-Length": str(len(content)), **(headers or {})}
        self.requests: list[requests.PreparedRequest] = []
        self._answering = threading.Lock()
        self._at_once = 0
        #: Most requests that were answered at one time.
        self.most_at_once = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **named: Any) -> requests.Response:
        """The answer, whose body is read later."""
        self.requests.append(request)
        self.count(+1)
        body = HTTPResponse(body=_Body(self), headers=self.headers, status=self.status, preload_content=False)
        answer: requests.Response = HTTPAdapter().build_response(request, body)
        return answer

    def close(self) -> None:
        """Nothing is held."""

    def count(self, change: int) -> None:
        """Note that an answer has begun, or that it is closed."""
        with self._answering:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)


class _Body(io.BytesIO):
    """The content, no faster than the rate."""

    def __init__(self, source: SimulatedSource) -> None:
        super().__init__(source.content)
        self._source = source

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._piece(size))

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self._piece(size))

    def _piece(self, size: int | None) -> int | None:
        if self._source.rate is None:
            return size
        time.sleep(0.05)
        return max(1, self._source.rate // 20)

    def close(self) -> None:
        if not self.closed:
            self._source.count(-1)
        super().close()


def simulated(sources: Mapping[str, SimulatedSource]) -> requests.Session:
    """A session for which the web is these addresses, and the rest answers 404."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, SimulatedSource(status=404))
    for url, source in sources.items():
        session.mount(url, source)
    return session
