"""A stand-in for RecordService that notes every call it gets: ``python countingrecords.py PORT FILE``.

It answers GetModel and CreateModel after a moment, so that a kill meets calls under way; SIGTERM drains it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from modelkeep.record.v1 import record_service_pb2 as records

_SERVICE = "modelkeep.record.v1.RecordService"
_MOMENT_S = 0.02


def main(port: str, file: Path) -> None:
    """Serve until SIGTERM."""
    notes = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(what: str) -> None:
        os.write(notes, f"{what} at {port}\n".encode())
        time.sleep(_MOMENT_S)

    def get(request: Any, context: Any) -> Any:
        note(f"get {request.key}")
        return records.GetModelResponse()

    def create(request: Any, context: Any) -> Any:
        note(f"create {request.request_id}")
        return records.CreateModelResponse(revision=1)

    server = grpc.server(ThreadPoolExecutor(32))
    methods: dict[str, Any] = {
        "GetModel": grpc.unary_unary_rpc_method_handler(
            get, records.GetModelRequest.FromString, records.GetModelResponse.SerializeToString
        ),
        "CreateModel": grpc.unary_unary_rpc_method_handler(
            create, records.CreateModelRequest.FromString, records.CreateModelResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    if server.add_insecure_port(f"127.0.0.1:{port}") == 0:
        raise SystemExit(f"port {port} is taken")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server.start()
    ended.wait()
    server.stop(grace=5).wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
