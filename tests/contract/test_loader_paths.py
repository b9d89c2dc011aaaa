"""Delivery by path, and workers in namespaces of their own and of other users. Real weights and workers."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import hold_pb2, leases_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, hold, leases, load, no_leases, release
from support.loaders import Lender, component, lender
from support.workers import Worker, WorkerError, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PATH = hold_pb2.DELIVERY_PATH


@pytest.fixture(scope="module")
def lent() -> Iterator[Path]:
    """The loader's path_dir, on a tmpfs as it should be."""
    folder = Path(tempfile.mkdtemp(prefix="mk-paths-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path, lent: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    async with lender(folder / "data", models, warm_helper=True, path_dir=lent, detach_grace_s=0.3) as both:
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


@pytest_asyncio.fixture(loop_scope="module")
async def worker(loader: Lender) -> AsyncIterator[Worker]:
    made = await shared_workers().new()
    yield made
    await made.close()


def files(lent: Path) -> list[str]:
    return sorted(str(path) for path in lent.iterdir() if path.suffix != ".lock")


def reserved(loader: Lender) -> int:
    return int(loader.app.lending.cache.usage().reserved)


async def no_files(loader: Lender, lent: Path) -> None:
    for _ in range(500):
        if not files(lent) and not reserved(loader):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a file, or its bytes, are still there")


async def test_a_lease_by_path_names_files_that_last_as_long_as_it_does(
    loader: Lender, ref: resident_pb2.ComponentRef, lent: Path
) -> None:
    grant = await acquire(loader, ref, delivery=PATH)
    assert (grant.ticket, grant.socket_path) == (b"", "")
    assert list(grant.paths) == files(lent)
    (manifest,) = grant.manifests
    content = await asyncio.to_thread(Path(grant.paths[0]).read_bytes)
    assert len(content) == manifest.file_size_bytes == reserved(loader)
    assert manifest.tensors
    call, _, second = await hold(loader, hold_pb2.HoldModelRequest(components=[ref], delivery=PATH))
    assert second.paths == grant.paths
    await release(loader, grant)
    assert files(lent) == list(second.paths)
    call.cancel()
    await no_leases(loader)
    await no_files(loader, lent)


async def test_a_lease_can_be_taken_up_by_path_and_has_its_files_then(
    loader: Lender, ref: resident_pb2.ComponentRef, lent: Path
) -> None:
    grant = await acquire(loader, ref, delivery=hold_pb2.DELIVERY_NONE)
    assert (list(grant.paths), files(lent)) == ([], [])
    request = hold_pb2.HoldModelRequest(
        components=[ref], delivery=PATH, lease_id=grant.lease.id, lease_secret=grant.lease_secret
    )
    call, _, again = await hold(loader, request)
    assert list(again.paths) == files(lent) != []
    await release(loader, grant)
    await no_files(loader, lent)
    call.cancel()


async def test_no_room_for_a_copy_is_ram_exhausted_and_leaves_no_lease(
    loader: Lender, ref: resident_pb2.ComponentRef, lent: Path
) -> None:
    held = await acquire(loader, ref)
    tier = loader.app.lending.cache.tier
    budget, tier.budget_bytes = tier.budget_bytes, tier.usage().taken + 1000
    try:
        with refused("RAM_EXHAUSTED"):
            await acquire(loader, ref, delivery=PATH)
        with refused("RAM_EXHAUSTED"):
            await loader.stub.HoldModel(hold_pb2.HoldModelRequest(components=[ref], delivery=PATH)).read()
        for _ in range(100):
            if [lease.id for lease in await leases(loader)] == [held.lease.id]:
                break
            await asyncio.sleep(0.01)
        assert [lease.id for lease in await leases(loader)] == [held.lease.id]
    finally:
        tier.budget_bytes = budget
    await no_files(loader, lent)


async def test_a_loader_without_the_setting_refuses_and_says_which(folder: Path) -> None:
    async with lender(folder / "without", folder / "imports") as plain:
        with refused("FIELD_INVALID") as error:
            await acquire(plain, component("0" * 32), delivery=PATH)
        assert [violation.field for violation in error.violations] == ["delivery"]
        assert "path_dir" in error.violations[0].description


async def test_a_worker_in_user_pid_and_mount_namespaces_gets_the_weights_by_path(
    loader: Lender, ref: resident_pb2.ComponentRef, lent: Path, worker: Worker, folder: Path
) -> None:
    """No descriptor socket there, another process id, another user id, and a read-only mount."""
    plain = await shared_workers().new()
    await plain.do("connect", address=loader.address)
    await plain.do("hold", key=ref.key, submodel=None, precision="bfloat16")
    expected = await plain.do("decode")
    await plain.do("release")
    await plain.close()

    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    sockets = Path((await acquire(loader, ref)).socket_path).parent
    assert await worker.do("enter_sandbox", lent=str(lent), at=str(inside), hidden=str(sockets)) == [1, 1000]
    await worker.do("connect", address=loader.address)
    with pytest.raises(WorkerError) as raised:
        await worker.do("hold", key=ref.key, submodel=None, precision="bfloat16")
    assert raised.value.args[0] == "WrongHostException"

    await worker.do("connect", address=loader.address, path_dir=str(inside), labels={"sandbox": "1"})
    held = await worker.do("hold", key=ref.key, submodel=None, precision="bfloat16")
    assert await worker.do("decode") == expected
    assert held["private_bytes"] < held["weight_bytes"] + (8 << 20)
    found = await loader.stub.ListLeases(leases_pb2.ListLeasesRequest(labels={"sandbox": "1"}))
    assert [lease.id for lease in found.leases] == [held["lease"]]
    answers = await worker.do("attempts_on", folder=str(inside))
    assert set(answers.values()) == {os.strerror(30)}, answers  # EROFS

    # A write of its own stays its own, and its death ends the lease, though it is process 1 for itself.
    assert await worker.do("scribble")
    content = await asyncio.to_thread(Path(files(lent)[0]).read_bytes)
    worker.kill()
    for _ in range(500):
        if not (await loader.stub.ListLeases(leases_pb2.ListLeasesRequest(labels={"sandbox": "1"}))).leases:
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the lease of a dead sandbox is still there")
    again = await acquire(loader, ref, delivery=PATH)
    assert await asyncio.to_thread(Path(again.paths[0]).read_bytes) == content


async def test_a_worker_in_namespaces_that_sees_the_socket_gets_descriptors(
    loader: Lender, ref: resident_pb2.ComponentRef, lent: Path, worker: Worker, folder: Path
) -> None:
    inside, elsewhere = folder / "inside", folder / "elsewhere"
    for place in (inside, elsewhere):
        place.mkdir(exist_ok=True)
    arguments = {"lent": str(lent), "at": str(inside), "hidden": str(elsewhere)}
    assert await worker.do("enter_sandbox", **arguments) == [1, 1000]
    await worker.do("connect", address=loader.address)
    held = await worker.do("hold", key=ref.key, submodel=None, precision="bfloat16")
    assert await worker.do("verify")
    (lease,) = await leases(loader)
    # The kernel tells the number that it has on the loader's side, not the one that it believes to have.
    assert lease.id == held["lease"]
    assert lease.holder.pid not in (0, 1)
    assert lease.holder.uid == os.geteuid()
    worker.kill()
    assert await no_leases(loader) < 10


async def test_another_user_is_refused_with_words(
    loader: Lender, ref: resident_pb2.ComponentRef, lent: Path, worker: Worker
) -> None:
    by_path = await acquire(loader, ref, delivery=PATH)
    by_ticket = await acquire(loader, ref)
    folders = [lent, Path(by_ticket.socket_path).parent]
    modes: dict[Path, Any] = {folder: folder.stat().st_mode & 0o777 for folder in folders}
    await worker.do("become", uid=65534)
    told = {"socket_path": by_ticket.socket_path, "ticket": by_ticket.ticket.hex()}
    # The folders keep him out,
    with pytest.raises(WorkerError) as raised:
        await worker.do("hand_in", **told)
    assert raised.value.args[0] == "WrongHostException"
    with pytest.raises(WorkerError) as raised:
        await worker.do("open_files", paths=list(by_path.paths))
    assert raised.value.args[0] == "ForbiddenPathException"
    # and what is in them does, should somebody open the folders.
    socket = Path(by_ticket.socket_path)
    try:
        for folder in folders:
            for above in (folder, *folder.parents[:-1]):
                if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o001:
                    modes.setdefault(above, above.stat().st_mode & 0o777)
                    above.chmod(0o755)
        socket.chmod(0o666)
        with pytest.raises(WorkerError) as raised:
            await worker.do("hand_in", **told)
        assert raised.value.args[0] == "ForbiddenTicketException"
        assert "One loader serves one user" in raised.value.args[2]
        with pytest.raises(WorkerError) as raised:
            await worker.do("open_files", paths=list(by_path.paths))
        assert raised.value.args[0] == "ForbiddenPathException"
        assert "one loader serves one user" in raised.value.args[2]
    finally:
        socket.chmod(0o600)
        for above, mode in modes.items():
            above.chmod(mode)
