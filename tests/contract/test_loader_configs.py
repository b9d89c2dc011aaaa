"""LoaderService and configurations that ask for too much, or for other code. Real classes, a real helper."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import capacity_pb2, hold_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker.classconfig import checked_config, known_keys
from modelkeep.worker.classes import ALLOWED, resolve_class
from support import tinymodels
from support.failures import refused
from support.loaders import Lender, component, lender

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MADE: dict[str, Callable[[], Any]] = {
    "vae": tinymodels.vae,
    "text_encoder": tinymodels.text_encoder,
    "t5_encoder": tinymodels.t5_encoder,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    for name, make in MADE.items():
        make().save_pretrained(models / name)
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def with_config(loader: Lender, name: str, **entries: Any) -> str:
    """A model with other entries in its configuration; its key."""
    place = Path(tempfile.mkdtemp(dir=loader.models)) / name
    shutil.copytree(loader.models / name, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | entries))
    kind = {"vae": taxonomy_pb2.MODEL_TYPE_VAE}.get(name, taxonomy_pb2.MODEL_TYPE_T5_ENCODER)
    return await loader.register(place, type=kind)


async def acquire(loader: Lender, key: str) -> hold_pb2.AcquireLeaseResponse:
    request = hold_pb2.AcquireLeaseRequest(components=[component(key)])
    request.ttl.FromSeconds(1)
    response: hold_pb2.AcquireLeaseResponse = await loader.stub.AcquireLease(request, timeout=60)
    return response


@pytest.mark.parametrize(
    ("name", "entries", "why"),
    [
        ("text_encoder", {"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ("text_encoder", {"max_position_embeddings": 10**11}, "max_position_embeddings"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("text_encoder", {"vocab_size": 2 * 10**6, "hidden_size": 10**6}, "far more than"),
        ("text_encoder", {"num_hidden_layers": 1000}, "far more than"),
        ("t5_encoder", {"num_layers": 1000}, "far more than"),
        ("t5_encoder", {"d_ff": 10**6}, "far more than"),
        ("vae", {"block_out_channels": [2**40]}, "block_out_channels"),
        ("vae", {"layers_per_block": 10**7}, "layers_per_block"),
        ("vae", {"block_out_channels": [10**6] * 4}, "far more than"),
        ("vae", {"down_block_types": ["DownEncoderBlock2D"] * 10_000}, "10,000 entries"),
        ("vae", {"act_fn": "x" * 10_000}, "10,000 characters"),
        ("vae", {"sample_size": {"a": 1}}, "neither a number"),
        ("vae", {"norm_num_groups": 0}, "cannot be built"),
    ],
)
async def test_a_configuration_beyond_reason_is_the_models_fault_and_takes_no_memory(
    loader: Lender, name: str, entries: dict[str, Any], why: str
) -> None:
    key = await with_config(loader, name, **entries)
    async with asyncio.timeout(60):
        with refused("INVALID_MODEL") as error:
            await acquire(loader, key)
    assert why in error.message
    capacity = await loader.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
    assert capacity.lease_count == 0


@pytest.mark.parametrize(
    ("name", "entries", "why"),
    [
        ("vae", {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ("vae", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [96, 96]}}, "96"),
        ("text_encoder", {"quantization_config": {"quant_method": "some"}}, "quantised"),
        ("text_encoder", {"_attn_implementation": "somebody/kernel"}, "somebody/kernel"),
        ("t5_encoder", {"attn_implementation": ["eager"]}, "attention"),
    ],
)
async def test_a_configuration_does_not_choose_packages_or_kernels(
    loader: Lender, name: str, entries: dict[str, Any], why: str
) -> None:
    with refused("INVALID_MODEL") as error:
        await acquire(loader, await with_config(loader, name, **entries))
    assert why in error.message


async def test_what_a_class_is_not_told_stays_behind_and_swells_no_answer(loader: Lender) -> None:
    key = await with_config(
        loader, "vae", auto_map={"AutoModel": "evil.Model"}, _pad="p" * 900_000, deep=[[[[[[]]]]]]
    )
    grant = await acquire(loader, key)
    assert grant.ByteSize() < 50_000
    assert "auto_map" not in str(grant)


@pytest.mark.parametrize(("library", "name"), ALLOWED, ids=lambda value: value)
async def test_the_keys_that_a_class_is_told_are_those_that_it_knows(library: str, name: str) -> None:
    made = resolve_class(library, name)
    made = getattr(made, "config_class", None) or made
    theirs = {key for key in inspect.signature(made.__init__).parameters if key != "self"}
    # Those say nothing about weights, and a part that is chosen by name could be any class.
    left_out = {"dtype", "id2label", "label2id", "problem_type", "backbone_config"}
    assert theirs - left_out <= known_keys(name)


async def test_what_the_libraries_write_is_taken_as_it_is(loader: Lender) -> None:
    for name, cls in (("vae", "AutoencoderKL"), ("t5_encoder", "T5EncoderModel")):
        path = loader.models / name / "config.json"
        config = json.loads(path.read_text())
        left = config.keys() - checked_config(cls, config, path).keys()
        assert left <= {"dtype", "torch_dtype", "n_positions", "_name_or_path"}
