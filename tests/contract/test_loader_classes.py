"""Every class that can be lent: a tiny model of it, lent and run beside what from_pretrained makes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelkeep.model.v1 import taxonomy_pb2
from modelkeep.worker._fetch import fetch_descriptors
from modelkeep.worker.classes import ALLOWED, NAMES, resolve_class
from support.lending import acquire, release
from support.loaders import Lender, component, lender
from support.tinyclasses import MADE
from support.tinyruns import ran, same, save_tiny

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
    # The libraries have much to say of what they will do otherwise one day.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
#: Their forward mixes in numbers that they make in float32.
FLOAT32_ONLY = {"AutoencoderTiny"}
#: In float32, their convolutions over time round otherwise where tensors lie at other addresses.
BY_ADDRESS = {"I2VGenXLUNet", "UNet3DConditionModel"}


#: One of each kind, each in one precision. The others go the same way, and run with the long tests.
ONE_OF_A_KIND = {
    ("AutoencoderKL", "bfloat16"),
    ("AutoencoderTiny", "float32"),
    ("AutoencoderKLWan", "bfloat16"),  # over time
    ("UNet2DConditionModel", "float32"),
    ("UNet3DConditionModel", "float32"),
    ("ControlNetModel", "bfloat16"),
    ("FluxTransformer2DModel", "bfloat16"),
    ("WanTransformer3DModel", "float32"),
    ("ReduxImageEncoder", "float32"),  # of a pipeline's own folder
    ("StableDiffusionSafetyChecker", "bfloat16"),
    ("CLIPTextModel", "float32"),
    ("CLIPVisionModelWithProjection", "bfloat16"),
    ("T5EncoderModel", "bfloat16"),  # tied, and with parts that stay in float32
    ("LlamaForCausalLM", "float32"),  # with buffers that no file has
    ("Qwen2_5_VLForConditionalGeneration", "bfloat16"),
}


def cases() -> Iterator[Any]:
    for library, name in sorted(MADE):
        for precision in ("float32", "bfloat16"):
            marks = () if (name, precision) in ONE_OF_A_KIND else pytest.mark.long
            yield pytest.param(library, name, precision, marks=marks)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def loader(folder: Path) -> AsyncIterator[Lender]:
    models = folder / "imports"
    models.mkdir()
    async with lender(folder / "data", models, warm_helper=True) as both:
        yield both


async def test_every_class_that_can_be_lent_has_a_tiny_model() -> None:
    assert MADE.keys() == ALLOWED.keys()
    assert ALLOWED.keys() == {(library, name) for library, names in NAMES.items() for name in names.split()}


@pytest.mark.long  # both libraries are imported, every class of theirs
@pytest.mark.timeout(120)
async def test_what_is_told_of_the_classes_is_what_the_libraries_say() -> None:
    program = Path(__file__).parents[2] / "scripts" / "classes.py"
    check = await asyncio.create_subprocess_exec(sys.executable, str(program), "--check")
    assert await check.wait() == 0, "scripts/classes.py writes another classes.json"


def saved(library: str, name: str, folder: Path, precision: str) -> Any:
    """A tiny model in a pipeline's folder, and what from_pretrained makes of it."""
    import json

    import torch

    save_tiny(library, name, folder / "part")
    cls = resolve_class(library, name)
    settings = getattr(cls, "config_class", None)
    # Any component that a main model can have will do; the folder says the class.
    (folder / "part").rename(folder / "unet")
    (folder / "model_index.json").write_text(json.dumps({"unet": [library, name]}))
    dtype = {"torch_dtype" if settings is None else "dtype": getattr(torch, precision)}
    made = cls.from_pretrained(folder / "unet", local_files_only=True, **dtype).eval()
    for parameter in made.parameters():
        # As they lie in a small file, some begin at odd places, and kernels for those round otherwise.
        parameter.data = parameter.data.clone()
    return made


def state(module: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor that a module has under any name, and whether it is in training."""
    import torch

    for path, part in module.named_modules(remove_duplicate=False):
        for held in (part._parameters, part._buffers, vars(part)):
            for name, value in held.items():
                if isinstance(value, torch.Tensor):
                    yield f"{path}.{name}", value
        yield f"{path}.training", torch.tensor(part.training)


@pytest.mark.parametrize(("library", "name", "precision"), list(cases()))
async def test_a_lent_model_is_what_from_pretrained_makes(
    loader: Lender, library: str, name: str, precision: str
) -> None:
    import torch

    from modelkeep.worker import attach, verify_attachment

    place = loader.models / f"{name}-{precision}"
    place.mkdir()
    expected = await asyncio.to_thread(saved, library, name, place, precision)
    key = await loader.register(place, type=taxonomy_pb2.MODEL_TYPE_MAIN)
    grant = await acquire(loader, component(key, "unet", precision))
    connection, (fd,) = await asyncio.to_thread(fetch_descriptors, grant.socket_path, grant.ticket, 1)
    with connection:
        module = await asyncio.to_thread(attach, fd)
        os.close(fd)
    await release(loader, grant)
    assert type(module) is type(expected)
    lent, original = dict(state(module)), dict(state(expected))
    assert lent.keys() == original.keys()
    assert [path for path, tensor in original.items() if not same(lent[path], tensor)] == []
    _, make = MADE[library, name]
    if make is None or (precision == "bfloat16" and name in FLOAT32_ONLY):
        return
    before = {path: tensor.clone() for path, tensor in module.named_parameters()}
    outputs = await asyncio.to_thread(ran, module, make, precision)
    assert outputs
    theirs = await asyncio.to_thread(ran, expected, make, precision)
    if name in BY_ADDRESS and precision == "float32":
        torch.testing.assert_close(outputs, theirs, rtol=1e-4, atol=1e-5)
    else:
        assert [same(one, other) for one, other in zip(outputs, theirs, strict=True)] == [True] * len(theirs)
    # Nothing was written into what is everybody's.
    assert all(same(before[path], tensor) for path, tensor in module.named_parameters())
    verify_attachment(module)
