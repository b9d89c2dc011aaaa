"""A worker that stops at a step on its way to a module, for tests that kill or stop it there; see
``support.workers``. It speaks to the loader by itself, so that each step is one that the test knows.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any

#: What keeps the step: call, connection, descriptor, module.
_kept: dict[str, Any] = {}


def go_to(step: str, address: str, key: str, precision: str) -> dict[str, Any]:
    """Go as far as a step: "asked", "granted", "fetched" (descriptors are here), "mapped".

    Returns:
        The lease's id, "" while there is none, and what the first frame was.
    """
    import grpc

    from modelkeep.loader.v1 import hold_pb2, loader_service_pb2_grpc
    from modelkeep.worker._fetch import fetch_descriptors
    from modelkeep.worker.attachment import attach

    _kept["channel"] = channel = grpc.insecure_channel(address)
    stub: Any = loader_service_pb2_grpc.LoaderServiceStub(channel)
    request = hold_pb2.HoldModelRequest(
        components=[{"key": key, "precision": f"PRECISION_{precision.upper()}"}], pid=os.getpid()
    )
    request.max_wait.seconds = 100
    _kept["call"] = call = stub.HoldModel(request)
    frame = next(call)
    first = frame.WhichOneof("event")
    if step == "asked":
        return {"lease": "", "first": first}
    while frame.WhichOneof("event") != "granted":
        frame = next(call)
    grant = frame.granted
    if step != "granted":
        connection, (fd,) = fetch_descriptors(grant.socket_path, grant.ticket, 1)
        _kept.update(connection=connection, fd=fd)
    if step == "mapped":
        _kept["module"] = attach(fd)
        os.close(_kept.pop("fd"))
    return {"lease": grant.lease.id, "first": first}


def told() -> list[str]:
    """What the stream says from here to its end."""
    return [frame.WhichOneof("event") for frame in _kept["call"]]


def works() -> float:
    """A sum over the weights of the mapped module, which touches all of them."""
    return sum(float(parameter.float().abs().sum()) for parameter in _kept["module"].parameters())


def let_go() -> None:
    """Unmap, and close the descriptor."""
    import gc

    _kept.pop("module", None)
    if (fd := _kept.pop("fd", None)) is not None:
        os.close(fd)
    gc.collect()


def hand_on() -> int:
    """Start a program that inherits the connection and the descriptor; its process id."""
    connection: socket.socket = _kept["connection"]
    inherited = (connection.fileno(), _kept["fd"])
    child = subprocess.Popen(["sleep", "100"], pass_fds=inherited, stdin=subprocess.DEVNULL)
    return child.pid
