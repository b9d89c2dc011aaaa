"""What drains an Envoy goes on where Envoy is slow to answer."""

from __future__ import annotations

import socketserver
import threading
import time
from pathlib import Path

import pytest

from modelkeep.gateway import drain


def test_an_envoy_that_is_slow_to_answer_is_drained_all_the_same(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            path = self.rfile.readline().decode().split()[1]
            asked.append(path.partition("?")[0])
            if path == "/healthcheck/fail":
                time.sleep(0.5)
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nhttp.modelkeep.downstream_rq_active: 0\n")

    monkeypatch.setattr(drain, "_PATIENCE_S", 0.2)
    admin = data_dir / "admin.sock"
    with socketserver.ThreadingUnixStreamServer(str(admin), Slow) as envoy:
        threading.Thread(target=envoy.serve_forever, args=(0.02,), daemon=True).start()
        try:
            assert drain.drain(admin, 0, 10)
        finally:
            envoy.shutdown()
    assert asked[:3] == ["/healthcheck/fail", "/drain_listeners", "/stats"]
