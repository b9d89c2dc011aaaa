"""A service small enough to see through: gRPC health on its port, and a fault to order by environment.

``TOY_<NAME>`` is ``exit:CODE`` (say why and end), ``deaf`` (ignore SIGTERM) or ``never`` (never healthy).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main(name: str) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--data-dir")
    parser.add_argument("--log-file")
    arguments, _ = parser.parse_known_args()
    order = os.environ.get(f"TOY_{name.upper()}", "")
    print(f"{name} starts", file=sys.stderr)
    if order.startswith("exit:"):
        print(f"{name} cannot go on", file=sys.stderr)
        sys.exit(int(order.removeprefix("exit:")))

    done = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if order == "deaf" else lambda *_: done.set())
    # SIGINT is the supervisor's to handle; a service that sees one was not shielded from the terminal.
    signal.signal(signal.SIGINT, lambda *_: os._exit(77))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    if order == "never":
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(f"{arguments.host}:{arguments.port}")
    except RuntimeError:
        sys.exit(98)
    server.start()
    done.wait()
    print(f"{name} drained", file=sys.stderr)
    server.stop(1).wait()
