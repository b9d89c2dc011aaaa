"""One lease, held by an open HoldModel stream and a connection to the descriptor socket."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc

from modelkeep.exceptions import ModelkeepError
from modelkeep.loader.v1 import hold_pb2, loader_service_pb2_grpc
from modelkeep.worker._fetch import fetch_descriptors, open_paths
from modelkeep.worker.attachment import attach

_log = logging.getLogger(__name__)
_RELEASE_TIMEOUT_S = 5.0


class Hold:
    """Components that are leased and attached in this process; made by :func:`hold`.

    Attributes:
        grant: What the loader granted.
        modules: What was attached, in the order asked for: modules, dicts of tensors, objects.
        lost: Why the lease ended before it was released, or "". The modules work all the same: their
            memory stays with the process that maps it.
        revoke_requested: What was said when the lease was asked back (why, and the deadline), or None.
    """

    def __init__(
        self,
        stub: loader_service_pb2_grpc.LoaderServiceStub,
        call: Any,
        grant: hold_pb2.Grant,
        connection: socket.socket | None,
        modules: list[Any],
        on_revoke: Callable[[hold_pb2.HoldRevokeRequested], None] = lambda asked: None,
    ) -> None:
        self.grant = grant
        self.modules = modules
        self.lost = ""
        self.revoke_requested: hold_pb2.HoldRevokeRequested | None = None
        self._stub = stub
        self._call = call
        self._connection = connection
        self._pid = os.getpid()
        self._released = False
        self._on_revoke = on_revoke
        threading.Thread(target=self._follow, name="modelkeep hold", daemon=True).start()

    def release(self) -> None:
        """End the lease; harmless when it has ended already, and in a forked child."""
        if self._released or os.getpid() != self._pid:
            return
        self._released = True
        _release(self._stub, self.grant)
        self._call.cancel()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()

    def _follow(self) -> None:
        """Notice when the loader ends the lease."""
        try:
            for frame in self._call:
                event = frame.WhichOneof("event")
                if event == "lost":
                    self.lost = frame.lost.error.message
                elif event == "revoke_requested":
                    self._asked_back(frame.revoke_requested)
            reason = "the loader ended it"
        except grpc.RpcError as error:
            reason = f"the loader went away ({error.code().name})"
        if not self._released:
            self.lost = self.lost or reason
            _log.warning(
                "lease %s is gone, and its modules go on working: %s", self.grant.lease.id, self.lost
            )

    def _asked_back(self, asked: hold_pb2.HoldRevokeRequested) -> None:
        self.revoke_requested = asked
        deadline = asked.deadline_time.ToJsonString()
        _log.warning("lease %s is asked back until %s: %s", self.grant.lease.id, deadline, asked.why)
        try:
            self._on_revoke(asked)
        except Exception:
            _log.exception("the callback of a lease that is asked back failed")


def hold(
    stub: loader_service_pb2_grpc.LoaderServiceStub,
    request: hold_pb2.HoldModelRequest,
    *,
    decode: Callable[[grpc.RpcError], ModelkeepError],
    on_revoke: Callable[[hold_pb2.HoldRevokeRequested], None] = lambda asked: None,
    path_dir: str | os.PathLike[str] | None = None,
) -> Hold:
    """Lease components and attach them.

    Args:
        stub: The loader.
        request: What to hold.
        decode: Turns an error of the wire into the suite's exception.
        on_revoke: Called on a thread of the hold's own when the lease is asked back, with why and until when.
        path_dir: For DELIVERY_PATH: where this process sees the loader's path_dir; None: at its own place.

    Raises:
        ModelkeepError: Whatever the loader answers.
    """
    call: Any = stub.HoldModel(request)
    grant: hold_pb2.Grant | None = None
    try:
        grant = _await_grant(call, decode)
        connection, descriptors = _receive(grant, path_dir)
        try:
            modules = [attach(fd) for fd in descriptors]
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        finally:
            for fd in descriptors:
                os.close(fd)
    except BaseException:
        if grant is not None:
            _release(stub, grant)  # or it would be kept for a while, to be taken up again
        call.cancel()
        raise
    return Hold(stub, call, grant, connection, modules, on_revoke)


def _receive(
    grant: hold_pb2.Grant, path_dir: str | os.PathLike[str] | None
) -> tuple[socket.socket | None, list[int]]:
    """The lent files, and the connection that keeps them where there is one."""
    if grant.paths:
        return None, open_paths(grant.paths, path_dir)
    return fetch_descriptors(grant.socket_path, grant.ticket, len(grant.manifests))


def _release(stub: loader_service_pb2_grpc.LoaderServiceStub, grant: hold_pb2.Grant) -> None:
    request = hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    try:
        stub.ReleaseLease(request, timeout=_RELEASE_TIMEOUT_S)
    except grpc.RpcError as error:
        # It ends anyway, since its bindings go now.
        _log.debug("the lease %s could not be released: %s", grant.lease.id, error)


def _await_grant(call: Any, decode: Callable[[grpc.RpcError], ModelkeepError]) -> hold_pb2.Grant:
    try:
        for frame in call:
            if frame.WhichOneof("event") == "granted":
                grant: hold_pb2.Grant = frame.granted
                return grant
    except grpc.RpcError as error:
        raise decode(error) from None
    raise ModelkeepError("The loader ended the stream without a grant.")
