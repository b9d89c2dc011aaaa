"""A loader is killed, and the next one goes on with what lies on (simulated) accelerators."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
from safetensors.torch import save_file

from modelkeep.loader.v1 import hold_pb2, pins_pb2, resident_pb2
from modelkeep.model.v1 import taxonomy_pb2
from support.lending import acquire, hold, leases, load, release
from support.loaders import component
from support.successions import Succession, close_all, contents, succession, taken_up

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

MB = 1 << 20
VRAM = resident_pb2.TIER_VRAM


def learned(path: Path, megabytes: int) -> Path:
    """A state dict of several tensors, of about so many megabytes."""
    torch.manual_seed(sum(path.name.encode()))
    save_file({f"t{n}.weight": torch.rand(256, 1024) for n in range(megabytes)}, path)
    return path


async def on_device(loaders: Succession, name: str, megabytes: int) -> resident_pb2.ComponentRef:
    """A model of about so many megabytes, to be lent on the first accelerator."""
    path = await asyncio.to_thread(learned, loaders.both.models / f"{name}.safetensors", megabytes)
    kind: dict[str, Any] = {
        "type": taxonomy_pb2.MODEL_TYPE_LORA,
        "format": taxonomy_pb2.MODEL_FORMAT_LYCORIS,
    }
    ref = component(await loaders.both.register(path, **kind))
    ref.device = "sim:0"
    return ref


async def test_what_lies_on_a_device_whole_in_part_or_not_now_is_lent_on(data_dir: Path) -> None:
    async with succession(data_dir, "--accelerator=sim:1x64MiB") as loaders:
        loader = loaders.both
        whole, part, away = [
            await on_device(loaders, name, size) for name, size in (("whole", 8), ("part", 9), ("away", 4))
        ]
        open_ones: list[Any] = []
        grants: list[hold_pb2.Grant] = []
        for ref, bound in ((whole, 0), (part, 5 * MB), (away, 0)):
            request = hold_pb2.HoldModelRequest(components=[ref], max_vram_bytes=bound)
            call, _, grant = await hold(loader, request)
            open_ones.append(call)
            grants.append(grant)
        before = [await contents(grant, open_ones) for grant in grants]
        assert [len(lent) for lent in before] == [2, 2, 2]
        gone = grants[2]
        named: dict[str, Any] = {"lease_id": gone.lease.id, "lease_secret": gone.lease_secret}
        await loader.stub.DemoteLease(hold_pb2.DemoteLeaseRequest(**named))
        await loader.stub.PinModel(pins_pb2.PinModelRequest(components=[whole]))
        there = await resident_ids(loaders)
        known = {lease.id: lease for lease in await leases(loader)}

        await loaders.process.stop(signal.SIGKILL)
        close_all(open_ones)
        for file in loader.models.glob("*.safetensors"):
            file.unlink()
        await loaders.start()

        assert await resident_ids(loaders) == there
        assert not [pid for pid in loaders.pids() if b"modelkeep_convert" in command(pid)], "nothing is built"
        for lease in await leases(loader):
            assert lease.state == resident_pb2.LEASE_STATE_DETACHED
            for field in ("resident_ids", "components", "size_bytes", "vram_bytes", "demoted"):
                assert getattr(lease, field) == getattr(known[lease.id], field), field
        for ref, grant, lent in zip((whole, part), grants, before, strict=False):
            call, again = await taken_up(loaders, grant, ref)
            open_ones.append(call)
            assert again.manifests == grant.manifests
            assert await contents(again, open_ones) == lent
        call, _ = await taken_up(loaders, gone, away)
        open_ones.append(call)
        promoted = (await loader.stub.PromoteLease(hold_pb2.PromoteLeaseRequest(**named))).grant
        assert await contents(promoted, open_ones) == before[2]
        for grant in grants:
            await release(loader, grant)
        close_all(open_ones)
        vram = [tier for tier in (await loaders.capacity()).tiers if tier.tier == VRAM]
        assert [tier.pinned_bytes for tier in vram] == [grants[0].lease.vram_bytes]


async def test_what_lay_on_a_device_that_has_gone_does_not_go_on(data_dir: Path) -> None:
    async with succession(data_dir, "--accelerator=sim:2x64MiB") as loaders:
        ref = await on_device(loaders, "lost", 4)
        ref.device = "sim:1"
        grant = await acquire(loaders.both, ref)
        await loaders.process.stop(signal.SIGKILL)
        loaders.process.change("--accelerator=sim:1x64MiB")
        await loaders.start()
        assert {resident.tier for resident in (await loaders.residents()).values()} <= {resident_pb2.TIER_RAM}
        with pytest.raises(grpc.aio.AioRpcError, match="No lease"):
            await taken_up(loaders, grant, ref)


async def test_what_makes_room_on_a_device_is_gone_for_the_keeper_as_well(data_dir: Path) -> None:
    async with succession(data_dir, "--accelerator=sim:1x16MiB", "--vram-budget-bytes=16777216") as loaders:
        refs = [await on_device(loaders, name, 8) for name in ("one", "other")]
        for turn in range(12):
            # Each takes the place of the other, and there is no room for both, nor time to wait.
            await load(loaders.both, refs[turn % 2])


async def resident_ids(loaders: Succession) -> dict[str, int]:
    """Residents, and the tier of each."""
    return {resident.id: resident.tier for resident in await loaders.all_residents()}


def command(pid: int) -> bytes:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()
