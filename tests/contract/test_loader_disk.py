"""The disk tier of a LoaderService over a real channel: far models are copied, lent from there, and kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from blake3 import blake3

from modelkeep.client import AsyncClient
from modelkeep.loader.v1 import capacity_pb2, estimate_pb2, load_pb2, resident_pb2, residents_pb2
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load, release
from support.loaders import Lender, component, lender
from support.smalldisk import small_disk

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

DISK, RAM = resident_pb2.TIER_DISK, resident_pb2.TIER_RAM


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    place = folder / "imports"
    tinymodels.save_pipeline(place / "sd")
    return place


@asynccontextmanager
async def far(data: Path, models: Path, **settings: Any) -> AsyncIterator[tuple[Lender, str]]:
    """A loader for which all models are far away, and the key of one."""
    async with lender(
        data, models, **{"localize": "always", "cache_dir": data / "copies", **settings}
    ) as made:
        yield made, await made.register(models / "sd", name="tiny")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def both(folder: Path, models: Path) -> AsyncIterator[tuple[Lender, str]]:
    async with far(folder / "data", models, warm_helper=True) as made:
        yield made


def weights(models: Path, part: str) -> Path:
    (path,) = (models / "sd" / part).glob("*.safetensors")
    return path


def digest_of(path: Path) -> str:
    return blake3(path.read_bytes()).hexdigest()


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


async def residents(loader: Lender, tier: int) -> list[resident_pb2.Resident]:
    answer = await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())
    return [one for one in answer.residents if one.tier == tier]


async def drop(loader: Lender, tier: Any, key: str = "") -> int:
    answer = await loader.stub.EvictModel(load_pb2.EvictModelRequest(key=key, tier=tier))
    return int(answer.evicted_count)


async def test_a_far_model_is_copied_and_lent_from_its_copy(
    both: tuple[Lender, str], models: Path, tmp_path: Path
) -> None:
    loader, key = both
    disk: Any = loader.app.lending.tiers.disk
    copies = disk.folder.path
    (resident,) = [f.resident for f in await load(loader, component(key, "vae")) if f.HasField("resident")]
    assert resident.tier == RAM
    (copy,) = await residents(loader, DISK)
    path = weights(models, "vae")
    assert copy.state == resident_pb2.RESIDENT_STATE_RESIDENT
    assert (copy.size_bytes, copy.display_name) == (path.stat().st_size, "tiny/vae")
    assert (copies / digest_of(path)).read_bytes() == path.read_bytes()
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert [tier.tier for tier in capacity.tiers] == [RAM, DISK]
    assert capacity.tiers[1].used_bytes == copy.size_bytes

    # Built anew from the copy: of the far file nothing but its beginning is read any more.
    assert await drop(loader, RAM) == 1
    with path.open("r+b") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    opened_far: list[Path] = []
    fetcher: Any = disk.cache._builder
    was = fetcher._opener

    def noting(path: Path) -> Any:
        opened_far.append(path)
        return was(path)

    fetcher._opener = noting
    try:
        grant = await acquire(loader, component(key, "vae"))
    finally:
        fetcher._opener = was
    assert grant.manifests[0].resident_id == resident.id
    assert opened_far == []
    await release(loader, grant)


@pytest.mark.long
async def test_copies_survive_a_restart(folder: Path, models: Path) -> None:
    data = folder / "restarts"
    async with far(data, models) as (loader, key):
        (first,) = [f.resident for f in await load(loader, component(key, "vae")) if f.HasField("resident")]
    before = sorted(p.stat().st_ino for p in (data / "copies").iterdir())
    async with lender(data, models, localize="always", cache_dir=data / "copies") as loader:
        (copy,) = await residents(loader, DISK)
        assert copy.state == resident_pb2.RESIDENT_STATE_RESIDENT
        request = estimate_pb2.EstimateLoadRequest(components=[component(key, "vae")])
        (one,) = (await loader.stub.EstimateLoad(request)).components
        assert (one.tier, one.resident_id, one.state) == (DISK, first.id, 0)
        (again,) = [f.resident for f in await load(loader, component(key, "vae")) if f.HasField("resident")]
        assert again.id == first.id
        (copy,) = await residents(loader, DISK)
        assert copy.components[0].key == key
    assert sorted(p.stat().st_ino for p in (data / "copies").iterdir()) == before


async def test_the_disk_is_filled_and_emptied_by_request(both: tuple[Lender, str], models: Path) -> None:
    loader, key = both
    await drop(loader, RAM)
    await drop(loader, DISK)
    request = load_pb2.LoadModelRequest(components=[component(key, "unet"), component(key, "vae")], tier=DISK)
    frames = [frame async for frame in loader.stub.LoadModel(request)]
    events = [frame.WhichOneof("event") for frame in frames]
    assert events[-2:] == ["resident", "resident"]
    assert "plan" in events
    assert {f.resident.tier for f in frames if f.HasField("resident")} == {DISK}
    assert await residents(loader, RAM) == []
    with refused("FIELD_INVALID"):
        await drop(loader, resident_pb2.TIER_VRAM)
    assert await drop(loader, RAM, key) == 0
    assert await drop(loader, DISK, key) == 2
    async with AsyncClient(loader=loader.address, record=loader.record_address) as client:
        assert await client.model_loader.residents() == []


async def test_the_command_line_copies_shows_and_drops(both: tuple[Lender, str]) -> None:
    loader, _ = both
    await drop(loader, RAM)
    await drop(loader, DISK)
    assert "a file, " in (text := await said(loader, "load", "tiny/vae", "--tier", "disk"))
    assert "on the disk tier" in text
    shown = await said(loader, "cache", "residents", "--filter", "tier=disk")
    assert shown.splitlines()[1].split("\t")[:3] == ["tiny/vae", "resident", "disk"]
    assert "disk: " in await said(loader, "cache", "capacity")
    assert "Dropped 1 component" in await said(loader, "cache", "evict", "tiny", "--tier", "disk")


async def said(loader: Lender, *arguments: str) -> str:
    """What the command line says on a pipe."""
    place = ("--address", f"loader={loader.address}", "--address", f"record={loader.record_address}")
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelkeep.cli", *arguments, *place),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=loader.models,
    )
    text = (await run.communicate())[0].decode()
    assert run.returncode == 0, text
    return text


async def test_a_watch_sees_a_model_being_localised(both: tuple[Lender, str], models: Path) -> None:
    loader, key = both
    await drop(loader, RAM)
    await drop(loader, DISK)
    call = loader.stub.WatchResidents(residents_pb2.WatchResidentsRequest())
    loading = asyncio.create_task(load(loader, component(key, "text_encoder")))
    seen: list[tuple[int, int]] = []
    async with asyncio.timeout(60):
        while (RAM, resident_pb2.RESIDENT_STATE_RESIDENT) not in seen:
            for event in (await call.read()).events:
                if event.HasField("put"):
                    seen.append((event.put.tier, event.put.state))
    call.cancel()
    await loading
    assert (DISK, resident_pb2.RESIDENT_STATE_LOCALIZING) in seen
    assert seen.index((DISK, resident_pb2.RESIDENT_STATE_RESIDENT)) < seen.index(
        (RAM, resident_pb2.RESIDENT_STATE_RESIDENT)
    )


async def test_what_is_lent_from_a_copy_is_bit_for_bit_what_is_lent_without(
    both: tuple[Lender, str], folder: Path, models: Path
) -> None:
    loader, key = both

    async def lent(of: Lender, key: str) -> str:
        grant = await acquire(of, component(key, "vae", "float16"))
        resident: Any = of.app.lending.cache.tier.get(grant.manifests[0].resident_id)
        with os.fdopen(resident.built.memory.open_for_holder(), "rb") as opened:
            digest = hashlib.sha256(opened.read()).hexdigest()
        await release(of, grant)
        return digest

    async with lender(folder / "plain", models, localize="never") as plain:
        other = await plain.register(models / "sd", name="tiny")
        assert await lent(loader, key) == await lent(plain, other)
        request = load_pb2.LoadModelRequest(components=[component(other, "vae")], tier=DISK)
        with refused("FIELD_INVALID"):
            _ = [frame async for frame in plain.stub.LoadModel(request)]
        assert len((await plain.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).tiers) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_model_on_a_read_only_mount_is_copied_and_one_beside_it_is_not(
    folder: Path, models: Path
) -> None:
    with small_disk(256) as mount:
        shutil.copytree(models / "sd", mount / "sd")
        shutil.copytree(models / "sd", folder / "beside" / "sd", dirs_exist_ok=True)
        remount(mount, "ro")
        roots = {"import_roots": (mount, folder / "beside")}
        async with lender(folder / "auto", models, **roots) as loader:
            there = await loader.register(mount / "sd", name="there")
            here = await loader.register(folder / "beside" / "sd", name="here")
            await load(loader, component(here, "text_encoder"))
            assert await residents(loader, DISK) == []
            await load(loader, component(there, "vae"))
            (copy,) = await residents(loader, DISK)
            assert copy.display_name == "there/vae"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_full_disk_is_a_clear_error_and_loads_go_on_when_there_is_room(
    folder: Path, models: Path
) -> None:
    with small_disk(1) as disk:
        async with far(folder / "full", models, cache_dir=disk / "copies", disk_budget_bytes=1 << 40) as (
            loader,
            key,
        ):
            with refused("DISK_FULL") as error:
                await load(loader, component(key, "vae"))
            assert str(disk) in error.metadata["path"]
            assert await residents(loader, RAM) == []
            remount(disk, "size=256m")
            async with asyncio.timeout(60):
                while True:
                    try:
                        await load(loader, component(key, "vae"))
                        break
                    except grpc.RpcError:  # it is not tried again at once
                        await asyncio.sleep(0.5)
            assert len(await residents(loader, RAM)) == 1
