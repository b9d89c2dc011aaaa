"""What keeps a lease, from the worker's side: an open HoldModel stream, and a connection to the descriptor
socket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import grpc
from google.protobuf import duration_pb2

from modelkeep.exceptions import ModelkeepError
from modelkeep.loader.v1 import hold_pb2, loader_service_pb2_grpc
from modelkeep.worker._fetch import fetch_descriptors, open_paths

_log = logging.getLogger(__name__)
_RELEASE_TIMEOUT_S = 5.0

#: Turns an error of the wire into the suite's exception.
Decode: TypeAlias = Callable[[grpc.RpcError], ModelkeepError]


@dataclass(frozen=True, slots=True)
class Lender:
    """The loader, as a worker's leases come from it.

    Attributes:
        stub: Calls it.
        decode: Turns an error of the wire into the suite's exception.
        path_dir: For DELIVERY_PATH: where this process sees the loader's path_dir; None: at its own place.
    """

    stub: loader_service_pb2_grpc.LoaderServiceStub
    decode: Decode
    path_dir: str | os.PathLike[str] | None = None

    def bind(
        self, request: hold_pb2.HoldModelRequest, patience_s: float | None = None
    ) -> tuple[Binding, list[int]]:
        """Lease components, or take a lease up again, and fetch the descriptors of their memory.

        Args:
            request: What to hold.
            patience_s: Longest wait for the grant; None: as long as the loader says that it is at work.

        Returns:
            What keeps the lease, and the descriptors in the order of the manifests; the caller closes both.

        Raises:
            ModelkeepError: Whatever the loader answers. A new lease is then released; one that was to be
                taken up is left as it is.
        """
        call: Any = self.stub.HoldModel(request)
        grant: hold_pb2.Grant | None = None
        connection: socket.socket | None = None
        try:
            with _at_most(patience_s, call.cancel):
                grant = self._await_grant(call)
            if grant.paths:
                descriptors = open_paths(grant.paths, self.path_dir)
            else:
                connection, descriptors = _fetched(grant)
        except BaseException:
            if grant is not None and not request.lease_id:
                self.release(grant)  # or it would be kept for a while, to be taken up again
            call.cancel()
            raise
        return Binding(call, grant, connection, tuple(map(_identity, descriptors))), descriptors

    def release(self, grant: hold_pb2.Grant) -> ModelkeepError | None:
        """End a lease; what the loader had against it, or None."""
        request = hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
        try:
            self.stub.ReleaseLease(request, timeout=_RELEASE_TIMEOUT_S)
        except grpc.RpcError as error:
            _log.debug("the lease %s could not be released: %s", grant.lease.id, error)
            return self.decode(error)
        return None

    def demote(self, grant: hold_pb2.Grant) -> None:
        """Say that what a lease has on accelerators is unmapped.

        Raises:
            ModelkeepError: Whatever the loader answers.
        """
        request = hold_pb2.DemoteLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
        try:
            self.stub.DemoteLease(request, timeout=_RELEASE_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self.decode(error) from None

    def promote(self, before: Binding, max_wait: duration_pb2.Duration) -> tuple[Binding, list[int]]:
        """Have what a lease had on accelerators brought back there.

        Args:
            before: What keeps the lease; its stream goes on.
            max_wait: Longest wait for room.

        Returns:
            What keeps the lease, and the descriptors; the caller closes these and the other's connection.

        Raises:
            ModelkeepError: Whatever the loader answers.
        """
        request = hold_pb2.PromoteLeaseRequest(
            lease_id=before.grant.lease.id, lease_secret=before.grant.lease_secret, max_wait=max_wait
        )
        try:
            grant = self.stub.PromoteLease(request).grant
        except grpc.RpcError as error:
            raise self.decode(error) from None
        grant.lease_secret = before.grant.lease_secret
        connection, descriptors = _fetched(grant)
        return Binding(before.call, grant, connection, tuple(map(_identity, descriptors))), descriptors

    def _await_grant(self, call: Any) -> hold_pb2.Grant:
        try:
            for frame in call:
                if frame.WhichOneof("event") == "granted":
                    grant: hold_pb2.Grant = frame.granted
                    return grant
        except grpc.RpcError as error:
            raise self.decode(error) from None
        raise ModelkeepError("The loader ended the stream without a grant.")


@dataclass(frozen=True, slots=True)
class Binding:
    """What keeps a lease.

    Attributes:
        call: The open stream, behind the grant.
        grant: What the loader granted.
        connection: To the descriptor socket; None for what was delivered by path.
        memory: Device and inode of each file that was handed over. While something maps a file nothing else
            has its numbers. Empty for a lease that is demoted: any memory with its components will do.
    """

    call: Any
    grant: hold_pb2.Grant
    connection: socket.socket | None
    memory: tuple[tuple[int, int], ...]

    def without_memory(self) -> Binding:
        """The same, of a lease that is demoted."""
        return replace(self, memory=())

    def close(self) -> None:
        """Keep it no more; the lease ends a moment later if nobody released it or has taken it up."""
        self.call.cancel()
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.close()


def _fetched(grant: hold_pb2.Grant) -> tuple[socket.socket, list[int]]:
    """Hand a ticket in; there is a descriptor for each manifest, and more for accelerators' memory."""
    last = max(max(one.descriptor_index, one.device_descriptor_index) for one in grant.manifests)
    return fetch_descriptors(grant.socket_path, grant.ticket, last + 1)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _at_most(seconds: float | None, then: Callable[[], Any]) -> Iterator[None]:
    """Do something if it takes longer; None: it may take as long as it likes."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, then)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
