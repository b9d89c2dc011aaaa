"""Digests in the background: no file, however long, keeps those of others waiting."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelkeep.install.v1 import install_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1 import model_pb2
from modelkeep.record.v1 import record_service_pb2 as record_pb
from modelkeep_install import digests
from support.installs import InstallClient, install_service, small_lora

PENDING = model_pb2.DIGEST_STATE_PENDING
COMPUTED = model_pb2.DIGEST_STATE_COMPUTED
FAILED = model_pb2.DIGEST_STATE_FAILED


@pytest.fixture
async def service(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InstallClient]:
    monkeypatch.setattr(digests, "_TURN_S", 0.05)
    monkeypatch.setattr(digests, "_LOOK_EVERY_S", 0.1)
    async with install_service(data_dir) as client:
        yield client


def long_lora(path: Path) -> Path:
    """A sound file of 8 GB that takes no room: its tensors were never written."""
    rank, wide = 1 << 16, 1280
    tensors, size = {}, 0
    for block in ("mid_block_attentions_0", "down_blocks_2_attentions_0"):
        for layer in (
            "attn1_to_q",
            "attn1_to_k",
            "attn1_to_v",
            "attn1_to_out_0",
            "attn2_to_q",
            "attn2_to_out_0",
        ):
            unit = f"lora_unet_{block}_transformer_blocks_0_{layer}"
            for part, shape in (("lora_down", (rank, wide)), ("lora_up", (wide, rank))):
                end = size + 4 * rank * wide
                facts = {"dtype": "F32", "shape": shape, "data_offsets": [size, end]}
                tensors[f"{unit}.{part}.weight"], size = facts, end
    header = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    return path


async def installed(service: InstallClient, path: Path) -> str:
    """The key of a model that was registered in place."""
    job = await service.install(path)
    assert job.state == install_pb2.INSTALL_STATE_COMPLETED, job.error
    return job.model_key


async def busy(service: InstallClient, path: Path) -> bool:
    """Whether the service has a file open, over some turns of its."""
    for _ in range(20):
        for fd in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                    return True
            except OSError:
                continue
        await asyncio.sleep(0.02)
    return False


async def settled(service: InstallClient, path: Path) -> None:
    """Waits until nobody reads a file any more."""
    async with asyncio.timeout(20):
        while await busy(service, path):  # noqa: ASYNC110  # the system tells it, no event
            await asyncio.sleep(0.05)


async def test_a_small_file_does_not_wait_for_long_ones(service: InstallClient, source: Path) -> None:
    long = [await installed(service, long_lora(source / f"long{n}.safetensors")) for n in range(3)]
    small = [await installed(service, small_lora(source / f"{n}.safetensors")) for n in range(3)]
    for key in small:
        assert [file.digest_state for file in await service.digested(key)] == [COMPUTED]
    for key in long:
        assert [file.digest_state for file in await service.files(key)] == [PENDING]


async def test_a_long_file_is_left_when_its_model_is_uninstalled(
    service: InstallClient, source: Path
) -> None:
    path = long_lora(source / "long.safetensors")
    key = await installed(service, path)
    assert await busy(service, path)
    await service.stub.UninstallModel(pb.UninstallModelRequest(key=key, files=pb.UNINSTALL_FILES_OWNED))
    await settled(service, path)


async def test_a_long_file_is_left_when_its_record_is_deleted_beside_the_installer(
    service: InstallClient, source: Path
) -> None:
    path = long_lora(source / "long.safetensors")
    key = await installed(service, path)
    assert await busy(service, path)
    await service.records.DeleteModel(record_pb.DeleteModelRequest(key=key))
    await settled(service, path)


@pytest.mark.parametrize("what", ["removed", "replaced", "changed"])
async def test_a_long_file_is_left_when_it_is_another_or_gone(
    service: InstallClient, source: Path, what: str
) -> None:
    path = long_lora(source / "long.safetensors")
    key = await installed(service, path)
    assert await busy(service, path)
    if what == "changed":
        os.utime(path, (0, 0))
    else:
        path.unlink()
    if what == "replaced":
        long_lora(path)
    assert [file.digest_state for file in await service.digested(key)] == [FAILED]
