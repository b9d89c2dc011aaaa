"""Conversions of original checkpoints that are too wide for tiny models, by names and rows of their tensors.

Tensors take no room here: each row of one is a number of its own, spread over all columns.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.shell import without_weights
from modelkeep_convert.checkpoints import denoisers, original
from modelkeep_convert.checkpoints.conversion import convert
from support import originals

pytestmark = pytest.mark.timeout(180)
WIDTH = denoisers.FLUX_WIDTH


def rows(shape: tuple[int, ...], start: int) -> torch.Tensor:
    """A tensor whose rows are all different, from each other and from those of the others."""
    first = torch.arange(start, start + shape[0], dtype=torch.float64)
    return first.reshape(-1, *(1 for _ in shape[1:])).expand(shape)


def flux(*, guided: bool) -> dict[str, torch.Tensor]:
    """A FLUX.1 of two double and two single blocks, under its publisher's names."""
    shapes: dict[str, tuple[int, int]] = {"img_in": (WIDTH, 64), "txt_in": (WIDTH, 4096)}
    for name, inner in (("time_in", 256), ("vector_in", 768), *((("guidance_in", 256),) if guided else ())):
        shapes |= {f"{name}.in_layer": (WIDTH, inner), f"{name}.out_layer": (WIDTH, WIDTH)}
    norms: list[str] = []
    for block in range(2):
        for stream in ("img", "txt"):
            here = f"double_blocks.{block}.{stream}"
            shapes |= {
                f"{here}_mod.lin": (6 * WIDTH, WIDTH),
                f"{here}_attn.qkv": (3 * WIDTH, WIDTH),
                f"{here}_attn.proj": (WIDTH, WIDTH),
                f"{here}_mlp.0": (4 * WIDTH, WIDTH),
                f"{here}_mlp.2": (WIDTH, 4 * WIDTH),
            }
            norms += [f"{here}_attn.norm.{part}_norm.scale" for part in ("query", "key")]
        here = f"single_blocks.{block}"
        shapes |= {
            f"{here}.linear1": (7 * WIDTH, WIDTH),
            f"{here}.linear2": (WIDTH, 5 * WIDTH),
            f"{here}.modulation.lin": (3 * WIDTH, WIDTH),
        }
        norms += [f"{here}.norm.{part}_norm.scale" for part in ("query", "key")]
    shapes |= {"final_layer.linear": (64, WIDTH), "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH)}
    numbers = count(0, 1 << 16)
    found = {f"{name}.weight": rows(shape, next(numbers)) for name, shape in shapes.items()}
    found |= {f"{name}.bias": rows(shape[:1], next(numbers)) for name, shape in shapes.items()}
    return found | {name: rows((128,), next(numbers)) for name in norms}


def settings(checkpoint: dict[str, torch.Tensor]) -> dict[str, Any]:
    return denoisers.flux({name: tuple(tensor.shape) for name, tensor in checkpoint.items()})


@pytest.mark.parametrize("guided", [True, False])
def test_a_flux_becomes_what_its_class_has_row_for_row(guided: bool) -> None:
    checkpoint = flux(guided=guided)
    config = settings(checkpoint)
    found = convert("flux", "FluxTransformer2DModel", config, checkpoint)
    with without_weights():
        shell = FluxTransformer2DModel.from_config(config)
    expected = shell.state_dict()
    assert {name: tensor.shape for name, tensor in found.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }

    def first_column(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.ndim == 1 else tensor[:, 0]

    # diffusers on the first columns alone, which are all that there is to know
    narrow = {
        name: tensor if tensor.ndim == 1 else tensor[:, :1].clone() for name, tensor in checkpoint.items()
    }
    by_diffusers = convert_flux_transformer_checkpoint_to_diffusers(narrow)
    assert by_diffusers.keys() == found.keys()
    for name, tensor in by_diffusers.items():
        assert torch.equal(first_column(found[name]), first_column(tensor)), name
    # The query, key and value of an image are three thirds of one tensor of the file.
    joined = checkpoint["double_blocks.1.img_attn.qkv.weight"][:, 0]
    parts = [found[f"transformer_blocks.1.attn.to_{part}.weight"][:, 0] for part in "qkv"]
    assert torch.equal(torch.cat(parts), joined)
    assert parts[0].data_ptr() == joined.data_ptr(), "a view of the file, no copy"


def test_a_tensor_that_flux_does_not_have_is_refused_and_named() -> None:
    checkpoint = flux(guided=True) | {"double_blocks.0.img_attn.gate": torch.ones(3)}
    with pytest.raises(InvalidModelException, match=r"double_blocks\.0\.img_attn\.gate"):
        convert("flux", "FluxTransformer2DModel", settings(checkpoint), checkpoint)


def test_of_sd_2_the_layer_behind_the_one_that_is_taken_stays_behind() -> None:
    module = originals.clip(layers=23, act="gelu")
    checkpoint = originals.openclip(module)
    spare = {
        name.replace("resblocks.22.", "resblocks.23."): tensor + 1
        for name, tensor in checkpoint.items()
        if "resblocks.22." in name
    }
    found = convert(
        "openclip", "CLIPTextModel", {"num_hidden_layers": 23, "hidden_size": 64}, checkpoint | spare
    )
    state = {name.removeprefix("text_model."): tensor for name, tensor in module.state_dict().items()}
    assert {name.removeprefix("text_model.") for name in found} == state.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name.removeprefix("text_model.")]), name


def test_a_tensor_that_no_text_encoder_has_is_refused_and_named() -> None:
    checkpoint = originals.openclip(originals.clip(act="gelu")) | {"text_scale": torch.ones(3)}
    with pytest.raises(InvalidModelException, match="text_scale"):
        convert("openclip", "CLIPTextModel", {"num_hidden_layers": 2, "hidden_size": 64}, checkpoint)


def test_a_file_is_no_reason_to_take_memory(tmp_path: Path) -> None:
    from safetensors import safe_open

    file = originals.write(tmp_path / "it.safetensors", {"": originals.ldm_unet(originals.unet("sd-1"))})
    with safe_open(str(file), framework="pt") as opened:
        checkpoint = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        config = denoisers.unet(
            {name: tuple(tensor.shape) for name, tensor in checkpoint.items()},
            "sd-1",
            original.of_base("sd-1"),
            "",
        )
        begin = min(tensor.data_ptr() for tensor in checkpoint.values())
        end = max(tensor.data_ptr() + tensor.nbytes for tensor in checkpoint.values())
        found = convert("unet", "UNet2DConditionModel", config, checkpoint)
        assert all(begin <= tensor.data_ptr() < end for tensor in found.values())
