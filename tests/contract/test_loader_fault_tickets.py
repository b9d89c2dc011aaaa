"""Tickets that are wrong, late, replayed, in pieces or of others: each is refused, and no lease suffers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import hold_pb2, leases_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.lending import acquire, hand_in, hold, leases, load, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

FORBIDDEN = b"\x01FORBIDDEN_TICKET: "


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    async with lender(folder / "data", models, warm_helper=True, ticket_valid_s=60.0) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def ref(loader: Lender) -> resident_pb2.ComponentRef:
    key = await loader.register(loader.models / "vae", type=taxonomy_pb2.MODEL_TYPE_VAE)
    wanted = component(key, "", "bfloat16")
    await load(loader, wanted)
    return wanted


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender) -> AsyncIterator[None]:
    yield
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)


def in_pieces(path: str, pieces: list[bytes], *, end: bool = False) -> bytes:
    """What the socket answers to a ticket that comes in pieces, perhaps with the end of the sender's side."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        for piece in pieces:
            connection.sendall(piece)
        if end:
            connection.shutdown(socket.SHUT_WR)
        data, descriptors, _flags, _address = socket.recv_fds(connection, 1, 4)
        for fd in descriptors:
            os.close(fd)
        return data


async def test_a_ticket_that_is_replayed_by_many_at_once_is_good_for_one(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    grant = await acquire(loader, ref)
    tries = [asyncio.to_thread(hand_in, grant.socket_path, grant.ticket) for _ in range(20)]
    answers = Counter(answer[:1] for answer in await asyncio.gather(*tries))
    assert answers == {b"\x00": 1, b"\x01": 19}
    assert [lease.id for lease in await leases(loader)] == [grant.lease.id]


async def test_a_ticket_is_no_good_once_its_lease_has_ended_however_it_did(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    released, revoked = await acquire(loader, ref), await acquire(loader, ref)
    call, _, gone = await hold(loader, hold_pb2.HoldModelRequest(components=[ref], pid=1 << 22))
    await release(loader, released)
    await loader.stub.RevokeLease(leases_pb2.RevokeLeaseRequest(lease_id=revoked.lease.id))
    call.cancel()
    loader.app.lending.leases.release(loader.app.lending.leases.get(gone.lease.id))
    for grant in (released, revoked, gone):
        answer = await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket)
        assert answer.startswith(FORBIDDEN), answer
    assert not await leases(loader)


async def test_a_ticket_that_comes_late_is_refused_and_a_renewal_gives_another(
    loader: Lender, ref: resident_pb2.ComponentRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = await acquire(loader, ref, ttl={"seconds": 3600})
    monkeypatch.setattr(loader.app.lending.tickets, "_clock", lambda: time.monotonic() + 61)
    answer = await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket)
    assert answer.startswith(FORBIDDEN)
    assert b"older than 60 s" in answer
    renewal = hold_pb2.RenewLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    ticket = (await loader.stub.RenewLease(renewal)).ticket
    assert await asyncio.to_thread(hand_in, grant.socket_path, ticket) == b"\x00"


async def test_wrong_tickets_use_up_nothing(loader: Lender, ref: resident_pb2.ComponentRef) -> None:
    grant = await acquire(loader, ref)
    wrong = [secrets.token_bytes(32) for _ in range(50)]
    wrong += [bytes(32), grant.lease_secret, grant.ticket[::-1], grant.ticket[:31] + b"\x00"]
    for ticket in wrong:
        answer = await asyncio.to_thread(hand_in, grant.socket_path, ticket)
        assert answer.startswith(FORBIDDEN), ticket
    assert await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket) == b"\x00"


async def test_a_ticket_may_come_in_pieces_and_what_follows_it_is_ignored(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    for pieces in ([], [b"more than a ticket" * 100]):
        grant = await acquire(loader, ref)
        ticket = grant.ticket
        sent = [ticket[:1], ticket[1:31], ticket[31:], *pieces]
        assert await asyncio.to_thread(in_pieces, grant.socket_path, sent) == b"\x00"


async def test_half_a_ticket_is_hung_up_on_and_the_whole_one_is_good_afterwards(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    grant = await acquire(loader, ref)
    half = [grant.ticket[:16]]
    assert await asyncio.to_thread(in_pieces, grant.socket_path, half, end=True) == b""
    assert await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket) == b"\x00"


async def test_a_ticket_binds_its_own_lease_and_no_other(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    one, two = await acquire(loader, ref), await acquire(loader, ref)

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(one.socket_path)
        connection.sendall(one.ticket)
        _data, (fd,), _flags, _address = socket.recv_fds(connection, 1, 1)
        os.close(fd)
        return connection

    with await asyncio.to_thread(connect):
        bound = {lease.id: lease.descriptor_connections for lease in await leases(loader)}
        assert bound == {one.lease.id: 1, two.lease.id: 0}
