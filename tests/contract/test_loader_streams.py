"""LoaderService over real channels: what streams, leases, lists and watches say. Real weights, no workers."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, hold_pb2, leases_pb2, load_pb2, resident_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, evict_all, hand_in, hold, leases, load, no_leases, release
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
CHECKPOINT = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    place = folder / "imports"
    tinymodels.save_pipeline(place / "sd")
    return place


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path, models: Path) -> AsyncIterator[Lender]:
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd", name="tiny")


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def clean(loader: Lender) -> AsyncIterator[None]:
    """A test that fails does not make others fail by its leases."""
    yield
    for lease in loader.app.lending.leases.alive():
        loader.app.lending.leases.release(lease)


async def test_loading_streams_its_plan_progress_and_the_resident(loader: Lender, key: str) -> None:
    frames: list[load_pb2.LoadModelResponse] = []
    request = load_pb2.LoadModelRequest(
        components=[component(key, "vae", "bfloat16"), component(key, "unet")], context={"queue_id": "q"}
    )
    async for frame in loader.stub.LoadModel(request):
        frames.append(frame)
    events = [frame.WhichOneof("event") for frame in frames]
    planned = events.index("plan")  # after the files were read, which may take a while
    assert set(events[:planned]) <= {"progress"}
    assert events[-2:] == ["resident", "resident"]
    assert frames[planned].context == frames[-1].context == {"queue_id": "q"}
    assert not frames[planned + 1].context
    progress = [f.progress for f in frames if f.HasField("progress")]
    assert {p.count for p in progress} == {2}
    assert all(p.progress.bytes_done <= p.progress.bytes_total for p in progress)
    vae, unet = frames[-2].resident, frames[-1].resident
    assert (vae.class_name, vae.precision) == ("AutoencoderKL", resident_pb2.PRECISION_BFLOAT16)
    assert (unet.class_name, unet.precision) == ("UNet2DConditionModel", resident_pb2.PRECISION_FLOAT32)
    assert vae.state == unet.state == resident_pb2.RESIDENT_STATE_RESIDENT
    assert vae.content_addressed
    plan = frames[planned].plan.manifests[0]
    assert plan.file_size_bytes == pytest.approx(vae.size_bytes, rel=0.01)
    assert (plan.name, plan.base, plan.location) == ("tiny", "sd-1", str(loader.models / "sd"))


async def test_holding_streams_its_progress_and_then_the_grant(loader: Lender, key: str) -> None:
    await evict_all(loader)
    wanted = component(key, "vae", "float16")
    _call, before, grant = await hold(loader, hold_pb2.HoldModelRequest(components=[wanted]))
    assert {frame.WhichOneof("event") for frame in before} == {"progress"}
    assert all(frame.progress.component == wanted for frame in before)
    assert grant.lease.stream_bound
    await release(loader, grant)


async def test_a_ticket_is_good_once_and_only_for_its_time(
    loader: Lender, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = await acquire(loader, component(key, "vae", "bfloat16"))
    wrong = await asyncio.to_thread(hand_in, grant.socket_path, bytes(32))
    assert wrong.startswith(b"\x01FORBIDDEN_TICKET: ")
    assert await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket) == b"\x00"
    used = await asyncio.to_thread(hand_in, grant.socket_path, grant.ticket)
    assert used.startswith(b"\x01FORBIDDEN_TICKET: ")
    request = hold_pb2.RenewLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    late, unused = [(await loader.stub.RenewLease(request)).ticket for _ in range(2)]
    tickets = loader.app.lending.tickets
    monkeypatch.setattr(tickets, "_clock", lambda: time.monotonic() + 11)
    old = await asyncio.to_thread(hand_in, grant.socket_path, late)
    assert old.startswith(b"\x01FORBIDDEN_TICKET: ")
    monkeypatch.undo()
    await release(loader, grant)
    ended = await asyncio.to_thread(hand_in, grant.socket_path, unused)
    assert ended.startswith(b"\x01FORBIDDEN_TICKET: ")
    for path in (grant.socket_path, os.path.dirname(grant.socket_path)):
        assert os.stat(path).st_mode & 0o077 == 0


async def test_a_lease_by_time_is_renewed_released_listed_and_runs_out(loader: Lender, key: str) -> None:
    request = hold_pb2.AcquireLeaseRequest(
        components=[component(key, "vae", "bfloat16")], delivery="DELIVERY_NONE"
    )
    request.ttl.seconds = 1
    grant = (await loader.stub.AcquireLease(request)).grant
    assert not grant.ticket
    assert len(grant.lease_secret) == 32
    with refused("FORBIDDEN_TICKET"):
        await loader.stub.RenewLease(
            hold_pb2.RenewLeaseRequest(lease_id=grant.lease.id, lease_secret=b"guess")
        )
    with refused("MODEL_IN_USE") as error:
        await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))
    assert error.metadata["holders"] == grant.lease.id
    second = await acquire(loader, component(key, "vae", "bfloat16"))
    pages = await loader.stub.ListLeases(leases_pb2.ListLeasesRequest(key=key, page_size=1))
    assert [lease.id for lease in pages.leases] == [grant.lease.id]
    assert list(pages.leases[0].display_names) == ["tiny/vae"], "people know it by this"
    rest = await loader.stub.ListLeases(
        leases_pb2.ListLeasesRequest(key=key, page_size=1, page_token=pages.next_page_token)
    )
    assert [lease.id for lease in rest.leases] == [second.lease.id]
    await release(loader, second)
    ended = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=second.lease.id))).lease
    assert ended.state == resident_pb2.LEASE_STATE_ENDED
    with refused("UNKNOWN_LEASE"):
        await release(loader, second)
    assert await no_leases(loader) > 0.5
    with refused("UNKNOWN_LEASE"):
        await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id="lease-that-never-was"))


async def test_a_detached_lease_can_be_taken_up_with_its_secret(loader: Lender, key: str) -> None:
    wanted = [component(key, "vae", "bfloat16")]
    first, _before, grant = await hold(loader, hold_pb2.HoldModelRequest(components=wanted))
    first.cancel()
    for _ in range(200):
        lease = (await loader.stub.GetLease(leases_pb2.GetLeaseRequest(lease_id=grant.lease.id))).lease
        if lease.state == resident_pb2.LEASE_STATE_DETACHED:
            break
        await asyncio.sleep(0.01)
    again = hold_pb2.HoldModelRequest(components=wanted, lease_id=grant.lease.id, lease_secret=b"x" * 32)
    with refused("FORBIDDEN_TICKET"):
        await loader.stub.HoldModel(again).read()
    again.lease_secret = grant.lease_secret
    other = hold_pb2.HoldModelRequest(components=[component(key, "unet")])
    other.lease_id, other.lease_secret = grant.lease.id, grant.lease_secret
    with refused("FIELD_INVALID"):
        await loader.stub.HoldModel(other).read()
    second, _before, taken = await hold(loader, again)
    assert taken.lease.id == grant.lease.id
    assert taken.lease.state == resident_pb2.LEASE_STATE_ACTIVE
    await release(loader, taken)
    assert await second.read() is not None  # the stream's clean end
    assert not await leases(loader)


async def test_the_manifest_alone_is_enough_to_find_a_tensor_in_the_file(loader: Lender, key: str) -> None:
    from safetensors.torch import load_file

    grant = await acquire(loader, component(key, "vae", "float32"))
    manifest = grant.manifests[0]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(grant.socket_path)
        connection.sendall(grant.ticket)
        data, (fd,), _flags, _address = await asyncio.to_thread(socket.recv_fds, connection, 1, 1)
    assert data == b"\x00"
    original = load_file(str(loader.models / "sd" / "vae" / "diffusion_pytorch_model.safetensors"))
    assert {tensor.name for tensor in manifest.tensors} == original.keys()
    for tensor in manifest.tensors:
        content = os.pread(fd, tensor.size_bytes, tensor.offset)
        assert content == original[tensor.name].numpy().tobytes(), tensor.name
    sizes = [tensor for tensor in manifest.tensors if tensor.size_bytes % 64 == 0]
    assert all(tensor.offset % 64 == 0 for tensor in sizes)
    assert manifest.file_size_bytes == os.fstat(fd).st_size
    os.close(fd)
    await release(loader, grant)


async def test_another_host_and_bad_fields_are_refused(loader: Lender, key: str) -> None:
    with refused("WRONG_HOST"):
        await acquire(loader, component(key, "vae"), boot_id="another-host")
    with refused("FIELD_INVALID"):
        await acquire(loader, component(key, "vae"), component(key, "vae"))
    with refused("FIELD_INVALID"):
        await acquire(loader)
    with refused("FIELD_INVALID"):
        await load(loader, component("not-a-key"))
    on_cuda = load_pb2.LoadModelRequest(components=[component(key, "vae")], tier=resident_pb2.TIER_VRAM)
    with refused("FIELD_INVALID") as error:
        await loader.stub.LoadModel(on_cuda).read()
    assert [violation.field for violation in error.violations] == ["tier"]
    for nanoseconds in (10**9 - 1, 24 * 3600 * 10**9 + 1):
        too_short_or_long = hold_pb2.AcquireLeaseRequest(components=[component(key, "vae")])
        too_short_or_long.ttl.FromNanoseconds(nanoseconds)
        with refused("FIELD_INVALID") as error:
            await loader.stub.AcquireLease(too_short_or_long)
        assert [violation.field for violation in error.violations] == ["ttl"]
    assert not await leases(loader)


async def test_when_leases_hold_all_memory_a_request_waits_and_then_names_the_holders(
    loader: Lender, key: str
) -> None:
    await evict_all(loader)
    first = await acquire(loader, component(key, "vae", "float32"))
    cache = loader.app.lending.cache
    budget, cache.tier.budget_bytes = cache.tier.budget_bytes, cache.usage().used + 1_000_000
    try:
        with refused("RAM_EXHAUSTED") as error:
            await acquire(loader, component(key, "vae", "bfloat16"))
        assert error.metadata["holders"] == first.lease.id
        assert int(error.metadata["bytes_short"]) > 0
        # All or none: the small one alone would have fitted, and is not kept.
        with refused("RAM_EXHAUSTED"):
            await acquire(loader, component(key, "text_encoder"), component(key, "vae", "bfloat16"))
        assert len(await leases(loader)) == 1
        request = hold_pb2.HoldModelRequest(components=[component(key, "vae", "bfloat16")])
        request.max_wait.seconds = 20
        waiting = loader.stub.HoldModel(request)
        queued = await waiting.read()
        assert queued.queued.bytes_short > 0
        assert list(queued.queued.holder_lease_ids) == [first.lease.id]
        assert queued.queued.holder_count == 1
        assert (await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).queued_count == 1
        await release(loader, first)
        while (frame := await waiting.read()).WhichOneof("event") != "granted":
            pass
        await release(loader, frame.granted)
        # The float32 one had to go for it.
        left = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest(key=key))).residents
        assert [r.precision for r in left] == [resident_pb2.PRECISION_BFLOAT16]
    finally:
        cache.tier.budget_bytes = budget


async def test_the_token_of_the_first_page_of_residents_covers_the_others(loader: Lender, key: str) -> None:
    await evict_all(loader)
    await load(loader, component(key, "vae"), component(key, "text_encoder"))
    first = await loader.stub.ListResidents(residents_pb2.ListResidentsRequest(page_size=1))
    rest = await loader.stub.ListResidents(
        residents_pb2.ListResidentsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert (len(first.residents), len(rest.residents)) == (1, 1)
    assert (first.resume_token != "", rest.resume_token) == (True, "")


async def test_watchers_see_residents_come_change_and_go(loader: Lender, key: str) -> None:
    await evict_all(loader)
    watch = loader.stub.WatchResidents(residents_pb2.WatchResidentsRequest(key=key))
    while not (frame := await watch.read()).snapshot_complete:
        pass
    token = frame.resume_token
    await load(loader, component(key, "text_encoder"))
    (listed,) = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest(key=key))).residents
    assert listed.revision > 0
    await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key))
    seen: list[Any] = []
    revisions: set[int] = set()
    while not seen or seen[-1] != "removed_id":
        for event in (await watch.read()).events:
            if event.WhichOneof("change") == "put":
                seen.append(event.put.state)
                revisions.add(event.put.revision)
                assert event.put.revision == event.revision
            elif event.WhichOneof("change") == "removed_id":
                seen.append("removed_id")
    watch.cancel()
    assert resident_pb2.RESIDENT_STATE_RESIDENT in seen
    assert listed.revision in revisions
    again = loader.stub.WatchResidents(residents_pb2.WatchResidentsRequest(key=key, resume_token=token))
    first = await again.read()
    while not first.events:
        first = await again.read()
    assert first.events[0].revision > 0
    again.cancel()


async def test_a_drain_ends_holds_and_those_that_wait_with_server_draining(loader: Lender, key: str) -> None:
    # The last test of this module: there is no way back from a drain.
    await evict_all(loader)
    held = loader.stub.HoldModel(hold_pb2.HoldModelRequest(components=[component(key, "vae", "float32")]))
    while (await held.read()).WhichOneof("event") != "granted":
        pass
    cache = loader.app.lending.cache
    cache.tier.budget_bytes = cache.usage().used + 1_000_000
    waiting = hold_pb2.AcquireLeaseRequest(components=[component(key, "vae", "bfloat16")])
    waiting.max_wait.seconds = 100
    call = loader.stub.AcquireLease(waiting)
    for _ in range(1000):
        if cache.usage().waiting:
            break
        await asyncio.sleep(0.01)
    await loader.app.drain()
    with refused("SERVER_DRAINING"):
        await held.read()
    with refused("SERVER_DRAINING"):
        await call
