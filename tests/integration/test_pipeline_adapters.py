"""What is put on top of lent weights: LoRAs beside them, what is fused into them, and compiled code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from modelkeep.client import Client
from modelkeep.exceptions import InvalidModelException
from modelkeep.supervisor import Suite
from modelkeep.worker import verify_attachment
from support import tinymodels

pytestmark = pytest.mark.timeout(240)

LAYERS = ["to_k", "to_q", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return {
        "services": ("record", "loader"),
        "env": {
            "MODELKEEP_LOADER_WARM_HELPER": "true",
            "MODELKEEP_LOADER_ALLOW_ANY_IMPORT_ROOT": "true",
        },
    }


@pytest.fixture(scope="module")
def client(suite: Suite) -> Iterator[Client]:
    with Client(data_dir=suite.data_dir) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(suite: Suite) -> Path:
    return tinymodels.save_pipeline(suite.data_dir.parent / "tiny")


@pytest.fixture(scope="module")
def key(client: Client, folder: Path) -> str:
    config = {
        "name": "tiny",
        "path": folder,
        "model_type": "main",
        "model_format": "diffusers",
        "base_model": "sd-1",
    }
    return client.model_record_store.add_model(None, config).key


@pytest.fixture(scope="module")
def lora(folder: Path) -> Path:
    """A LoRA for the attention of UNet and text encoder, with weights that show in pictures."""
    torch.manual_seed(11)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    clip = ["q_proj", "k_proj", "v_proj", "out_proj"]
    for part, module, targets in (
        ("unet", tinymodels.unet(), LAYERS),
        ("text_encoder", tinymodels.text_encoder(), clip),
    ):
        config: Any = LoraConfig(r=4, lora_alpha=4, target_modules=targets)
        module.add_adapter(config)
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(module)
        layers[f"{part}_lora_layers"] = {name: torch.randn_like(one) / 4 for name, one in state.items()}
    place = folder.parent / "lora"
    StableDiffusionPipeline.save_lora_weights(place, **layers)
    return place


def draw(pipeline: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        "a photo of a cat",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    assert isinstance(images, torch.Tensor)
    return images


def digest(module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        found.update(name.encode() + parameter.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.long
def test_a_lora_stands_beside_the_lent_weights_and_goes_without_a_trace(
    client: Client, folder: Path, key: str, lora: Path
) -> None:
    theirs = StableDiffusionPipeline.from_pretrained(folder)
    plain = draw(theirs)
    theirs.load_lora_weights(lora)
    with client.model_loader.get_pipeline(key) as pipeline:
        before = digest(pipeline.unet), digest(pipeline.text_encoder)
        pipeline.load_lora_weights(lora)
        changed = draw(pipeline)
        assert not torch.equal(changed, plain)
        assert torch.equal(changed, draw(theirs))
        verify_attachment(pipeline)  # every lent weight is where it was, and as it was
        pipeline.set_adapters(pipeline.get_active_adapters(), 0.5)
        assert not torch.equal(draw(pipeline), changed)
        verify_attachment(pipeline)
        pipeline.unload_lora_weights()
        assert torch.equal(draw(pipeline), plain)
        assert (digest(pipeline.unet), digest(pipeline.text_encoder)) == before
        verify_attachment(pipeline)


def test_what_is_fused_is_this_processs_own_and_verify_attachment_tells(
    client: Client, key: str, lora: Path
) -> None:
    with client.model_loader.get_model(key, "unet") as other:
        shared = digest(other)
        with client.model_loader.get_pipeline(key) as pipeline:
            assert digest(pipeline.unet) == shared
            pipeline.load_lora_weights(lora)
            verify_attachment(pipeline)
            pipeline.fuse_lora()
            with pytest.raises(InvalidModelException, match="private copies"):
                verify_attachment(pipeline)
            pipeline.unload_lora_weights()
            assert digest(pipeline.unet) != shared
            with pytest.raises(InvalidModelException, match="private copies"):
                verify_attachment(pipeline)
        assert digest(other) == shared  # the neighbour's, and what is lent next
        verify_attachment(other)
    with client.model_loader.get_pipeline(key) as pipeline:
        assert digest(pipeline.unet) == shared
        verify_attachment(pipeline)


def test_a_parameter_that_is_no_adapters_is_told_in_a_pipeline_too(client: Client, key: str) -> None:
    with client.model_loader.get_pipeline(key) as pipeline:
        pipeline.unet.conv_in.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
        with pytest.raises(InvalidModelException, match=r"of the unet .* conv_in\.extra"):
            verify_attachment(pipeline)
        del pipeline.unet.conv_in.extra
        verify_attachment(pipeline)
        with torch.no_grad():
            next(pipeline.vae.parameters()).add_(0)  # a write, though of the same bytes
        with pytest.raises(InvalidModelException, match="were written to"):
            verify_attachment(pipeline)
    with pytest.raises(InvalidModelException, match="not made by"):
        verify_attachment(tinymodels.vae())
    with pytest.raises(InvalidModelException, match="Neither a module nor a pipeline"):
        verify_attachment(object())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_compiled_code_runs_over_lent_weights(client: Client, key: str) -> None:
    hidden = torch.linspace(-1, 1, 128 * 4 * 4).reshape(1, 128, 4, 4)
    with client.model_loader.get_model(key, "vae") as vae, torch.no_grad():
        block = vae.decoder.mid_block.resnets[
            0
        ]  # convolutions, norms, an addition: each kernel takes a second
        plain = block(hidden, None)
        compiled: Any = torch.compile(block, fullgraph=True)
        assert torch.allclose(compiled(hidden, None), plain, rtol=1e-4, atol=1e-5)
        verify_attachment(vae)
        wrapped: Any = torch.compile(vae)
        verify_attachment(wrapped)  # torch's wrapper around the module
        wrapped.to(torch.bfloat16)
        with pytest.raises(InvalidModelException, match="private copies"):
            verify_attachment(wrapped)
