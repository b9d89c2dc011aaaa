"""Odd, damaged and forbidden model files: what comes of them, and that they harm nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import resource
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio

from modelkeep.loader.v1 import resident_pb2, residents_pb2
from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker.manifest import Manifest
from support import tinymodels
from support.failures import refused
from support.lending import acquire, load, release
from support.loaders import Lender, component, lender
from support.workers import Worker, shared_workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

VAE = taxonomy_pb2.MODEL_TYPE_VAE
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    shared_workers()  # begins to import while the model is made
    models = folder / "imports"
    tinymodels.vae().save_pretrained(models / "vae")
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


@pytest.mark.parametrize("odd", ["float8_e4m3fn", "float64", "int64"])
async def test_other_data_types_in_the_files_come_as_from_pretrained_has_them(
    loader: Lender, worker: Worker, odd: str
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = loader.models / f"odd-{odd}"
    shutil.copytree(loader.models / "vae", folder)
    path = str(folder / WEIGHTS)
    state = load_file(path)
    # An integer where the class has a float is what a careless quantiser leaves.
    names = ["decoder.conv_in.bias"] if odd == "int64" else [n for n, t in state.items() if t.ndim > 1]
    state |= {name: (state[name] * 100).to(getattr(torch, odd)) for name in names}
    save_file(state, path, metadata={"format": "pt"})
    key = await loader.register(folder, type=VAE)
    await worker.do("hold", key=key, submodel=None, precision="bfloat16")
    expected = await worker.do(
        "reference", folder=str(folder), class_name="AutoencoderKL", precision="bfloat16"
    )
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def test_a_variant_in_shards_is_found(loader: Lender, worker: Worker) -> None:
    folder = loader.models / "shards"
    tinymodels.vae(seed=5, widths=(32, 64)).save_pretrained(folder, variant="fp16", max_shard_size="1MB")
    assert not (folder / WEIGHTS).exists()
    key = await loader.register(folder, type=VAE)
    await worker.do("hold", key=key, submodel=None, precision="float32")
    plain = loader.models / "no-shards"
    tinymodels.vae(seed=5, widths=(32, 64)).save_pretrained(plain)
    expected = await worker.do(
        "reference", folder=str(plain), class_name="AutoencoderKL", precision="float32"
    )
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def test_a_single_file_vae_may_have_the_old_names_of_its_attention(
    loader: Lender, worker: Worker
) -> None:
    from safetensors.torch import load_file, save_file

    new_names = load_file(loader.models / "vae" / WEIGHTS)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    pattern = re.compile("|".join(map(re.escape, old)))
    old_names = {pattern.sub(lambda found: old[found[0]], name): t for name, t in new_names.items()}
    assert old_names.keys() != new_names.keys()
    file = loader.models / "old-names.safetensors"
    save_file(old_names, file)
    key = await loader.register(file, type=VAE, format=taxonomy_pb2.MODEL_FORMAT_CHECKPOINT)
    await worker.do("hold", key=key, submodel=None, precision="bfloat16")
    expected = await worker.do(
        "reference", folder=str(loader.models / "vae"), class_name="AutoencoderKL", precision="bfloat16"
    )
    assert await worker.do("tensors") == expected["tensors"]
    await worker.do("release")


async def test_bad_models_are_refused_with_the_reason(loader: Lender, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    truncated = loader.models / "truncated"
    shutil.copytree(loader.models / "vae", truncated)
    weights = truncated / WEIGHTS
    os.truncate(weights, weights.stat().st_size - 1)
    key = await loader.register(truncated, type=VAE)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key))
    assert "truncated" in error.message

    twice = loader.models / "twice"
    shutil.copytree(loader.models / "vae", twice)
    both = load_file(twice / WEIGHTS)
    query = next(name for name in both if name.endswith(".attentions.0.to_q.weight"))
    save_file({**both, query.replace("to_q", "query"): both[query] * 2}, twice / WEIGHTS)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(await loader.register(twice, type=VAE)))
    assert query in error.message
    with refused("INVALID_MODEL") as error:
        checkpoint = taxonomy_pb2.MODEL_FORMAT_CHECKPOINT
        await acquire(loader, component(await loader.register(twice / WEIGHTS, type=VAE, format=checkpoint)))
    assert query in error.message

    outside = folder / "outside"
    shutil.copytree(loader.models / "vae", outside)
    with refused("FORBIDDEN_PATH"):
        await acquire(loader, component(await loader.register(outside, type=VAE)))
    link = loader.models / "link"
    link.symlink_to(outside)
    with refused("FORBIDDEN_PATH"):
        await acquire(loader, component(await loader.register(link, type=VAE)))

    gone = await loader.register(loader.models / "gone", type=VAE)
    with refused("MODEL_NOT_FOUND_ON_DISK"):
        await acquire(loader, component(gone))

    pickled = loader.models / "pickled"
    shutil.copytree(loader.models / "vae", pickled)
    (pickled / WEIGHTS).unlink()
    (pickled / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02cos\nabort\n)R.")
    with refused("UNSAFE_FORMAT"):
        await acquire(loader, component(await loader.register(pickled, type=VAE)))

    strange = loader.models / "strange"
    shutil.copytree(loader.models / "vae", strange)
    config = (strange / "config.json").read_text()
    (strange / "config.json").write_text(config.replace("AutoencoderKL", "os"))
    with refused("INVALID_MODEL"):
        await acquire(loader, component(await loader.register(strange, type=VAE)))

    elsewhere = await loader.register("vae", type=VAE, root_id="123e4567-e89b-12d3-a456-426614174000")
    with refused("ROOT_MISMATCH"):
        await acquire(loader, component(elsewhere))


async def test_a_configuration_that_asks_for_far_more_than_the_files_hold_is_refused_at_once(
    loader: Lender,
) -> None:
    endless = loader.models / "endless"
    shutil.copytree(loader.models / "vae", endless)
    config = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps({**config, "layers_per_block": 10**9}))
    key = await loader.register(endless, type=VAE)
    async with asyncio.timeout(60):
        with refused("INVALID_MODEL") as error:
            await acquire(loader, component(key))
    assert "config.json" in error.message


async def test_a_configuration_does_not_choose_code(loader: Lender) -> None:
    place = loader.models / "kernel"
    tinymodels.t5_encoder().save_pretrained(place)
    config = json.loads((place / "config.json").read_text())
    # The library would fetch this from its hub, or take it from its cache, and run it.
    chosen = {"attn_implementation": "somebody/some-kernel"}
    (place / "config.json").write_text(json.dumps(config | chosen))
    key = await loader.register(place, type=taxonomy_pb2.MODEL_TYPE_T5_ENCODER)
    with refused("INVALID_MODEL") as error:
        await acquire(loader, component(key))
    assert "the attention 'somebody/some-kernel' is not among those" in error.message


async def test_a_build_that_fails_is_cooled_down_and_says_why(loader: Lender) -> None:
    wrong = loader.models / "wrong"
    shutil.copytree(loader.models / "vae", wrong)
    config = (wrong / "config.json").read_text()
    (wrong / "config.json").write_text(config.replace('"latent_channels": 4', '"latent_channels": 5'))
    key = await loader.register(wrong, type=VAE)
    with refused("INVALID_MODEL"):
        await acquire(loader, component(key))
    with refused("INVALID_MODEL") as again:
        await acquire(loader, component(key))
    assert again.retry_after is not None
    assert again.retry_after > 0
    listed = (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest(key=key))).residents
    assert [r.state for r in listed] == [resident_pb2.RESIDENT_STATE_FAILED]
    assert listed[0].error.reason == "INVALID_MODEL"


async def test_text_that_protobuf_cannot_carry_does_no_harm_beyond_its_own_model(loader: Lender) -> None:
    odd = loader.models / "odd"
    shutil.copytree(loader.models / "vae", odd)
    config = (odd / "config.json").read_text()
    key = await loader.register(odd, type=VAE)
    for word, why in (("\\ud800", "half of a character"), ("\\u0000", "activation")):
        (odd / "config.json").write_text(config.replace('"silu"', f'"{word}"'))
        with refused("INVALID_MODEL") as error:
            await acquire(loader, component(key))
        assert why in error.message
    # The failure is listed, and so is everything else.
    states = [
        r.state for r in (await loader.stub.ListResidents(residents_pb2.ListResidentsRequest())).residents
    ]
    assert resident_pb2.RESIDENT_STATE_FAILED in states
    strange = os.fsdecode(bytes(loader.models) + b"/\xff")
    shutil.copytree(loader.models / "vae", strange)
    link = loader.models / "to-strange"
    link.symlink_to(strange)
    grant = await acquire(loader, component(await loader.register(link, type=VAE)))
    assert grant.manifests[0].location == f"{loader.models}/?"
    await release(loader, grant)


async def test_threads_that_build_side_by_side_leave_the_libraries_verbosity_as_it_was(
    loader: Lender,
) -> None:
    from diffusers.utils import logging as library

    from modelkeep.worker.shell import empty_module

    config = json.loads((loader.models / "vae" / "config.json").read_text())
    before = library.get_verbosity()
    manifests = [
        Manifest("diffusers", "AutoencoderKL", {**config, "sample_size": size}, "float32", {}, (), ())
        for size in range(8, 32)
    ]
    await asyncio.gather(*(asyncio.to_thread(empty_module, manifest) for manifest in manifests))
    assert library.get_verbosity() == before


async def test_a_thread_that_makes_modules_without_weights_leaves_those_of_others_as_they_are() -> None:
    import torch

    from modelkeep.worker.shell import without_weights

    untouched = torch.empty, torch.nn.Linear.reset_parameters, torch.nn.Conv2d.reset_parameters
    with ThreadPoolExecutor(1) as other:
        with without_weights():
            with without_weights():
                pass
            bare = torch.nn.Sequential(
                torch.nn.Conv2d(4, 8, 3), torch.nn.Linear(8, 8), torch.nn.GroupNorm(2, 8)
            )
            theirs = other.submit(torch.nn.Linear, 8, 8).result()
        after = torch.nn.Linear(8, 8)
    assert all(parameter.is_meta for layer in bare for parameter in layer.parameters())
    for layer in (theirs, after):
        assert layer.weight.device.type == "cpu"
        assert 0 < layer.weight.abs().max() < 1  # drawn, and not whatever lay there
    assert untouched == (torch.empty, torch.nn.Linear.reset_parameters, torch.nn.Conv2d.reset_parameters)


async def test_libraries_are_quiet_in_the_thread_that_makes_a_shell_and_in_no_other() -> None:
    from diffusers.utils import logging as library

    from modelkeep.worker.shell import quiet

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = library.get_logger("diffusers.configuration_utils")
    library.add_handler(handler)
    try:
        with ThreadPoolExecutor(1) as other, quiet():
            log.warning("of this thread")
            log.error("an error")
            other.submit(log.warning, "of another thread").result()
        log.warning("afterwards")
    finally:
        library.remove_handler(handler)
    assert said == ["an error", "of another thread", "afterwards"]


async def test_memory_that_the_helper_cannot_get_is_not_the_models_fault(loader: Lender) -> None:
    for name, width in (("t5-small", 64), ("t5-large", 400_000)):
        tinymodels.t5_encoder(d_ff=width).save_pretrained(loader.models / name)
    t5 = taxonomy_pb2.MODEL_TYPE_T5_ENCODER
    small = await loader.register(loader.models / "t5-small", type=t5)
    large = await loader.register(loader.models / "t5-large", type=t5)
    await load(loader, component(small))  # now all that is imported is imported
    helper = loader.app.helper.pid
    pages = int((await asyncio.to_thread(Path(f"/proc/{helper}/statm").read_text)).split()[0])
    size = (loader.models / "t5-large" / "model.safetensors").stat().st_size
    # The file is mapped by several hands, one after the other, and each says it in its own way.
    try:
        for precision, room in (("float32", 0.5), ("float16", 1.5), ("bfloat16", 2.5)):
            limit = pages * os.sysconf("SC_PAGE_SIZE") + int(room * size)
            resource.prlimit(helper, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            with refused("RAM_EXHAUSTED"):
                await acquire(loader, component(large, "", precision))
    finally:
        resource.prlimit(helper, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
async def test_no_component_takes_more_room_than_was_made_for_it(loader: Lender, precision: str) -> None:
    place = loader.models / f"t5-{precision}"  # of which some layers stay in float32
    tinymodels.t5_encoder(d_ff=4096).save_pretrained(place)
    key = await loader.register(place, type=taxonomy_pb2.MODEL_TYPE_T5_ENCODER)
    frames = await load(loader, component(key, "", precision))
    (plan,) = [frame.plan for frame in frames if frame.HasField("plan")]
    assert frames[-1].resident.size_bytes <= plan.manifests[0].file_size_bytes
