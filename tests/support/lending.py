"""What tests of lending do to a loader, over its channel and its descriptor socket."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from modelkeep.loader.v1 import hold_pb2, leases_pb2, load_pb2, resident_pb2, residents_pb2
from support.loaders import Lender


async def leases(loader: Lender) -> list[resident_pb2.Lease]:
    """All that are alive, in one page."""
    response = await loader.stub.ListLeases(leases_pb2.ListLeasesRequest(page_size=1000))
    assert not response.next_page_token
    return list(response.leases)


async def no_leases(loader: Lender, within_s: float = 20.0) -> float:
    """Seconds until there is no lease any more."""
    started = time.monotonic()
    while await leases(loader):
        assert time.monotonic() - started < within_s, "a lease is still there"
        await asyncio.sleep(0.005)
    return time.monotonic() - started


async def load(loader: Lender, *components: resident_pb2.ComponentRef) -> list[load_pb2.LoadModelResponse]:
    return [frame async for frame in loader.stub.LoadModel(load_pb2.LoadModelRequest(components=components))]


async def acquire(loader: Lender, *components: resident_pb2.ComponentRef, **more: Any) -> hold_pb2.Grant:
    request = hold_pb2.AcquireLeaseRequest(components=components, **more)
    return (await loader.stub.AcquireLease(request)).grant  # type: ignore[no-any-return]  # an untyped stub


async def hold(
    loader: Lender, request: hold_pb2.HoldModelRequest
) -> tuple[Any, list[hold_pb2.HoldModelResponse], hold_pb2.Grant]:
    """The open call, the frames before the grant, and the grant."""
    call = loader.stub.HoldModel(request)
    before: list[hold_pb2.HoldModelResponse] = []
    while (frame := await call.read()).WhichOneof("event") != "granted":
        before.append(frame)
    return call, before, frame.granted


async def release(loader: Lender, grant: hold_pb2.Grant) -> None:
    request = hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    await loader.stub.ReleaseLease(request)


async def evict_all(loader: Lender) -> None:
    for resident in (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents:
        for one in resident.components:
            await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=one.key))


def hand_in(path: str, ticket: bytes) -> bytes:
    """What the descriptor socket answers to a ticket, up to its end or its first byte."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(ticket)
        answer = connection.recv(1)
        while answer[:1] == b"\x01" and (data := connection.recv(4096)):
            answer += data
        return answer
