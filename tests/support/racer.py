"""One of many that want room: leases a component, maps it, says what it is, holds it until its input ends.

    python -m support.racer ADDRESS KEY

It imports neither torch nor the worker library: fifty of these start in seconds.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import sys

import grpc

from modelkeep.loader.v1 import hold_pb2, loader_service_pb2_grpc


def main(address: str, key: str) -> None:
    request = hold_pb2.HoldModelRequest(components=[{"key": key}], pid=os.getpid())
    request.max_wait.seconds = 240
    with grpc.insecure_channel(address) as channel:
        stream = loader_service_pb2_grpc.LoaderServiceStub(channel).HoldModel(request)
        grant = next(frame.granted for frame in stream if frame.WhichOneof("event") == "granted")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(grant.socket_path)
            connection.sendall(grant.ticket)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            with mmap.mmap(descriptors[0], 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
                print(hashlib.sha256(mapped).hexdigest(), flush=True)
                sys.stdin.read()
            os.close(descriptors[0])
        stream.cancel()


if __name__ == "__main__":
    main(*sys.argv[1:])
