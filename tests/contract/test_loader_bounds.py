"""What one caller can take of the loader, how it ends for others, and how large answers get."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from modelkeep import sealed
from modelkeep.loader.v1 import capacity_pb2, hold_pb2, leases_pb2, load_pb2, resident_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc
from modelkeep.worker._fetch import _connect
from modelkeep_common import paging
from modelkeep_loader import fd_socket
from modelkeep_loader.convert import manifests
from support import tinymodels
from support.failures import refused
from support.lending import acquire, hand_in, hold, leases, load, release
from support.loaders import Lender, component, lender
from support.workers import shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

LIMIT = 5
KILOBYTE = 1024


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    settings = {"max_leases_per_principal": LIMIT, "warm_helper": True}
    async with lender(folder / "data", models, **settings) as both:
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


@pytest.mark.long
async def test_leases_have_a_limit_that_says_what_and_when(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    held = [await acquire(loader, ref) for _ in range(LIMIT)]
    assert held[0].lease.HasField("expire_time")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await acquire(loader, ref)
    details = dict(raised.value.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    kinds = {detail.TypeName(): detail for detail in status.details}
    info = error_details_pb2.ErrorInfo()
    assert kinds["google.rpc.ErrorInfo"].Unpack(info)
    assert (info.reason, info.metadata["limit"]) == ("LEASES_EXHAUSTED", str(LIMIT))
    assert {"google.rpc.QuotaFailure", "google.rpc.RetryInfo"} <= kinds.keys()
    with refused("LEASES_EXHAUSTED"):
        await loader.stub.HoldModel(hold_pb2.HoldModelRequest(components=[ref])).read()
    await release(loader, held[0])
    await acquire(loader, ref)
    async with grpc.aio.insecure_channel(loader.address) as channel:
        stub: Any = server_service_pb2_grpc.ServerServiceStub(channel)
        limits = (await stub.GetServerInfo(server_service_pb2.GetServerInfoRequest())).limits
    assert (limits["max_leases_per_principal"], limits["max_leases"]) == (LIMIT, 4096)


async def test_answers_about_residents_count_the_leases(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    for _ in range(LIMIT):
        await acquire(loader, ref)
    (resident,) = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    assert resident.lease_count == LIMIT
    assert resident.ByteSize() < KILOBYTE
    assert (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).lease_count == LIMIT


async def test_a_page_is_cut_by_its_bytes_and_nothing_is_left_out(
    loader: Lender, ref: resident_pb2.ComponentRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {(await acquire(loader, ref, label="\N{SNOWMAN}" * 256)).lease.id for _ in range(LIMIT)}
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 2500)  # two of them
    request = leases_pb2.ListLeasesRequest(page_size=1000)
    seen: list[str] = []
    while True:
        page = await loader.stub.ListLeases(request)
        assert 0 < len(page.leases) <= 2
        seen += [lease.id for lease in page.leases]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sorted(seen) == sorted(made)


async def test_an_operator_ends_a_lease_and_its_holder_hears_why(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    call, _before, grant = await hold(loader, hold_pb2.HoldModelRequest(components=[ref]))
    by_time = await acquire(loader, ref)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(grant.socket_path)
        connection.sendall(grant.ticket)
        data, descriptors, _flags, _address = await asyncio.to_thread(socket.recv_fds, connection, 1, 1)
        assert data == b"\x00"
        for lease in (grant.lease, by_time.lease):
            request = leases_pb2.RevokeLeaseRequest(lease_id=lease.id, why="the night shift needs the memory")
            ended = (await loader.stub.RevokeLease(request)).lease
            assert ended.end == resident_pb2.LEASE_END_REVOKED
        frame = await call.read()
        assert frame.lost.error.reason == "LEASE_REVOKED"
        assert "night shift" in frame.lost.error.message
        connection.settimeout(10)
        assert await asyncio.to_thread(connection.recv, 1) == b"", "the loader closes the connection"
    mine = hold_pb2.RenewLeaseRequest(lease_id=by_time.lease.id, lease_secret=by_time.lease_secret)
    with refused("LEASE_REVOKED") as error:
        await loader.stub.RenewLease(mine)
    assert error.metadata["why"] == "the night shift needs the memory"
    with refused("LEASE_REVOKED"):
        await release(loader, by_time)
    again = hold_pb2.HoldModelRequest(
        components=[ref], lease_id=grant.lease.id, lease_secret=grant.lease_secret
    )
    with refused("LEASE_REVOKED"):
        await loader.stub.HoldModel(again).read()
    told = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=by_time.lease.id))).lease
    assert (told.end, told.end_message) == (
        resident_pb2.LEASE_END_REVOKED,
        "the night shift needs the memory",
    )
    with refused("UNKNOWN_LEASE"):
        await loader.stub.RevokeLease(leases_pb2.RevokeLeaseRequest(lease_id=by_time.lease.id))
    late = await asyncio.to_thread(hand_in, by_time.socket_path, by_time.ticket)
    assert late.startswith(b"\x01FORBIDDEN_TICKET: ")
    # What was mapped is still there, and the memory can be dropped for others.
    assert os.pread(descriptors[0], 1, 8) == b"{"
    dropped = await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=ref.key))
    assert (dropped.evicted_count, dropped.zombie_bytes > 0) == (1, True)
    os.close(descriptors[0])


async def test_who_gets_nothing_delivered_is_told_little(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    grant = await acquire(loader, ref, delivery="DELIVERY_NONE")
    (manifest,) = grant.manifests
    assert (manifest.class_name, manifest.component) == ("AutoencoderKL", ref)
    assert not manifest.tensors
    assert not manifest.aliases
    assert not manifest.config_json
    assert grant.ByteSize() < KILOBYTE
    full = await acquire(loader, ref)
    assert full.manifests[0].file_size_bytes == manifest.file_size_bytes
    assert full.manifests[0].tensors


async def test_a_lease_whose_answer_would_be_too_large_is_not_granted(
    loader: Lender, ref: resident_pb2.ComponentRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_MAX_GRANT_BYTES", 2000)
    with refused("FIELD_INVALID") as error:
        await acquire(loader, ref)
    assert "DELIVERY_NONE" in error.message
    with refused("FIELD_INVALID"):
        await hold(loader, hold_pb2.HoldModelRequest(components=[ref]))
    assert not await leases(loader)
    assert not any(r.leases for r in loader.app.lending.cache.tier.residents())
    small = await acquire(loader, ref, delivery="DELIVERY_NONE")
    again = hold_pb2.HoldModelRequest(
        components=[ref], lease_id=small.lease.id, lease_secret=small.lease_secret
    )
    with refused("FIELD_INVALID"):
        await loader.stub.HoldModel(again).read()
    assert (await leases(loader))[0].id == small.lease.id, "it goes on as it was"


async def test_frames_of_waiting_and_loading_stay_under_a_kilobyte() -> None:
    largest = 2**63 - 1
    name = "lease-" + "f" * 16
    progress = {"bytes_done": largest, "bytes_total": largest, "bytes_per_second": largest}
    ref = component("f" * 32, "text_encoder_2", "bfloat16")
    frames = [
        hold_pb2.HoldModelResponse(alive=hold_pb2.HoldAlive()),
        hold_pb2.HoldModelResponse(
            queued=hold_pb2.HoldQueued(
                bytes_short=largest, holder_lease_ids=[name] * 16, holder_count=2**31 - 1
            )
        ),
        hold_pb2.HoldModelResponse(
            progress=load_pb2.LoadProgress(
                component=ref,
                stage=resident_pb2.RESIDENT_STATE_READING,
                progress=progress,
                index=15,
                count=16,
            )
        ),
    ]
    assert max(frame.ByteSize() for frame in frames) < KILOBYTE


async def test_memory_that_cannot_be_opened_is_told_to_whoever_asks_for_it(
    loader: Lender, ref: resident_pb2.ComponentRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = await acquire(loader, ref)

    def fail(descriptor: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(sealed, "open_readonly", fail)
    answer = await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket)
    assert answer.startswith(b"\x01SERVER_BUSY: ")
    assert b"Too many open files" in answer


async def test_many_who_connect_and_say_nothing_keep_nobody_out(
    loader: Lender, ref: resident_pb2.ComponentRef
) -> None:
    grant = await acquire(loader, ref)
    silent: list[socket.socket] = []

    def connect() -> None:
        for _ in range(400):
            silent.append(one := socket.socket(socket.AF_UNIX))
            one.settimeout(10)
            _connect(one, grant.socket_path)

    try:
        await asyncio.to_thread(connect)
        assert await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket) == b"\x00"
        server = loader.app.descriptors
        for _ in range(200):
            if len(server._tasks) <= 300:
                break
            await asyncio.sleep(0.02)
        assert len(server._silent) <= 256
        assert len(server._tasks) <= 300
    finally:
        for one in silent:
            one.close()


async def test_those_who_come_all_at_once_and_are_turned_away_are_hung_up_on(
    loader: Lender, ref: resident_pb2.ComponentRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is cancelled before its first step cannot close what it was given."""
    monkeypatch.setattr(fd_socket, "_MOST_SILENT", 1)
    grant = await acquire(loader, ref)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(100)]
        for one in crowd:  # on the loop's own thread: the server sees none of them before all are there
            one.settimeout(4)
            _connect(one, grant.socket_path)

        def hung_up_on() -> bool:
            return all(one.recv(1) == b"" for one in crowd[:-1])

        assert await asyncio.to_thread(hung_up_on)
