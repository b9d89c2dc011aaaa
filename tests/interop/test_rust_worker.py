"""A worker in Rust: it leases, maps and reads lent weights by the API and the descriptor socket alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from support.compilers import rust_program
from support.lending import leases, no_leases
from support.loaders import Lender, lender

pytestmark = [
    pytest.mark.interop,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(1800),  # a first build takes minutes
]


@pytest.fixture(scope="module")
def program() -> Path:
    return rust_program("modelkeep-worker")


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    from support import tinymodels

    place = folder / "imports"
    tinymodels.save_pipeline(place / "sd")
    tinymodels.t5_encoder().save_pretrained(place / "t5")
    return place


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path, models: Path) -> AsyncIterator[Lender]:
    socket = folder / "loader.sock"
    paths = folder / "paths"
    paths.mkdir(mode=0o700)
    async with lender(folder / "data", models, warm_helper=True, unix_socket=socket, path_dir=paths) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(loader: Lender) -> str:
    return await loader.register(loader.models / "sd", name="tiny")


@contextlib.asynccontextmanager
async def running(program: Path, *arguments: str) -> AsyncIterator[tuple[Process, dict[str, Any]]]:
    """The worker, once it has its weights, and what it says of them."""
    process = await asyncio.create_subprocess_exec(
        str(program), *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=1 << 24
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, (await process.stderr.read()).decode()
        yield process, json.loads(line)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def ended(process: Process) -> int:
    """Let it end by itself."""
    assert process.stdin is not None
    process.stdin.close()
    return await asyncio.wait_for(process.wait(), 20)


def digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor as Python has it."""
    return {
        name: hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("way", ["hold", "ttl", "unix", "path"])
async def test_its_tensors_are_those_that_from_pretrained_has_in_python(
    program: Path, loader: Lender, key: str, folder: Path, way: str
) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(loader.models / "sd" / "vae", dtype=torch.bfloat16)
    expected = digests(vae.state_dict())
    address = f"unix:{folder / 'loader.sock'}" if way == "unix" else loader.address
    more = {"ttl": ["--ttl", "30"], "path": ["--path-dir", str(folder / "paths")]}.get(way, [])
    async with running(program, address, key, "vae", "bfloat16", *more) as (process, told):
        (component,) = told["components"]
        assert component["tensors"] == expected
        assert (component["name"], component["class"]) == ("tiny", "AutoencoderKL")
        (lease,) = await leases(loader)
        assert (lease.id, lease.holder.pid) == (told["lease"], process.pid)
        assert (lease.stream_bound, lease.descriptor_connections) == (way != "ttl", int(way != "path"))
        assert list(lease.resident_ids) == [component["resident"]]
        assert await ended(process) == 0
    assert await leases(loader) == []  # released, not only gone


async def test_in_channels_last_its_bytes_are_those_that_torch_has(
    program: Path, loader: Lender, key: str
) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(loader.models / "sd" / "unet", dtype=torch.float32)
    state = {
        name: tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
        for name, tensor in unet.state_dict().items()
    }
    wanted = [loader.address, key, "unet", "float32", "--channels-last"]
    async with running(program, *wanted) as (process, told):
        assert told["components"][0]["tensors"] == digests(state)
        assert told["components"][0]["tensors"] != digests(unet.state_dict())
        assert await ended(process) == 0


async def test_a_model_that_is_one_component_needs_no_submodel(program: Path, loader: Lender) -> None:
    from transformers import T5EncoderModel

    from modelkeep.model.v1 import taxonomy_pb2

    t5 = await loader.register(loader.models / "t5", type=taxonomy_pb2.MODEL_TYPE_T5_ENCODER)
    async with running(program, loader.address, t5, "", "float32") as (process, told):
        # Of tied ones all names.
        t5_encoder = T5EncoderModel.from_pretrained(loader.models / "t5", dtype=torch.float32)
        expected = digests(t5_encoder.state_dict())
        tensors = told["components"][0]["tensors"]
        # Tied weights are lent under one of their names.
        assert set(tensors) < set(expected)
        assert {name: expected[name] for name in tensors} == tensors
        assert set(expected.values()) == set(tensors.values())
        assert await ended(process) == 0


async def test_killed_it_loses_its_lease(program: Path, loader: Lender, key: str) -> None:
    async with running(program, loader.address, key, "vae") as (process, _):
        assert len(await leases(loader)) == 1
        process.kill()
        assert await no_leases(loader) < 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["0" * 32, "vae"], "NotFound"),
        (["KEY"], "say which component"),
        (["KEY", "brain"], "there is no submodel"),
        (["KEY", "vae", "float8"], "there is no precision"),
        (["KEY", "vae", "--path-dir", "/nowhere"], "cannot be opened"),
        ([], "usage:"),
    ],
)
async def test_what_goes_wrong_is_told_and_leaves_no_lease(
    program: Path, loader: Lender, key: str, arguments: list[str], words: str
) -> None:
    named = [key if argument == "KEY" else argument for argument in arguments]
    process = await asyncio.create_subprocess_exec(
        str(program), loader.address, *named, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, output) == (1, b"")
    assert words in errors.decode()
    assert await no_leases(loader) < 10
