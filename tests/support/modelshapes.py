"""Real models without weights: sparse safetensors files with the true names and shapes.

The tables are in tests/data/shapes and made by ``make_shapes.py`` from the real architectures. A file has
its full size (a 7 GB checkpoint is 7 GB long) and takes a few KiB of disk.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).parents[1] / "data" / "shapes"
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
Table = Mapping[str, Sequence[int]]


@cache
def table(name: str) -> dict[str, list[int]]:
    """A table of tests/data/shapes, such as ``unet.sd-1.ldm``: tensor name -> shape."""
    loaded: dict[str, list[int]] = json.loads(gzip.decompress((SHAPES / f"{name}.json.gz").read_bytes()))
    return loaded


def prefixed(prefix: str, tensors: Table) -> dict[str, Sequence[int]]:
    """The same tensors under a prefix."""
    return {prefix + name: shape for name, shape in tensors.items()}


def write_safetensors(
    path: Path, tensors: Table, *, dtype: str = "F16", metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a true header and a buffer that is a hole; returns the path."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, shape in tensors.items():
        size = math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


def checkpoint_tensors(base: str, *, channels: int = 4) -> dict[str, Sequence[int]]:
    """All tensors of an original single-file checkpoint: UNet, text encoders, VAE."""
    tensors = prefixed("model.diffusion_model.", table(f"unet.{base}.ldm"))
    conv_in = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[conv_in] = [tensors[conv_in][0], channels, 3, 3]
    tensors |= prefixed("first_stage_model.", table("vae.ldm"))
    if base == "sd-1":
        tensors |= prefixed("cond_stage_model.transformer.", table("text.clip-l.transformers"))
        tensors |= {"alphas_cumprod": [1000], "betas": [1000]}
    elif base == "sd-2":
        tensors |= prefixed("cond_stage_model.model.", table("text.openclip-h.openclip"))
    elif base == "sdxl":
        tensors |= prefixed("conditioner.embedders.0.transformer.", table("text.clip-l.transformers"))
        tensors |= prefixed("conditioner.embedders.1.model.", table("text.openclip-g.openclip"))
    else:
        tensors |= prefixed("conditioner.embedders.0.model.", table("text.openclip-g.openclip"))
    return tensors


def huge_tensors() -> dict[str, list[int]]:
    """24 GB in fp16 of a transformer's shape, as a FLUX checkpoint is."""
    tensors = {}
    for block in range(57):
        for part in ("img_attn.qkv", "txt_attn.qkv", "img_mlp.0", "txt_mlp.0", "img_mlp.2", "txt_mlp.2"):
            tensors[f"model.diffusion_model.double_blocks.{block}.{part}.weight"] = [3072, 11424]
            tensors[f"model.diffusion_model.double_blocks.{block}.{part}.bias"] = [3072]
    return tensors


def write_checkpoint(path: Path, base: str, *, channels: int = 4, **kwargs: Any) -> Path:
    """A main model as one file; about 2 GB long for SD-1, 7 GB for SDXL."""
    return write_safetensors(path, checkpoint_tensors(base, channels=channels), **kwargs)


#: What the published configs say of the UNet, as far as the probe reads it.
UNET_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "sd-1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {"cross_attention_dim": 2048, "use_linear_projection": True},
    "sdxl-refiner": {"cross_attention_dim": 1280, "use_linear_projection": True},
}
_CLIP = {"sd-1": "clip-l", "sd-2": "openclip-h", "sdxl": "clip-l"}


def write_vae_folder(folder: Path, **config: Any) -> Path:
    """A diffusers ``AutoencoderKL`` folder."""
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", table("vae.diffusers"), dtype="F32")
    _write_json(folder / "config.json", {"_class_name": "AutoencoderKL", "latent_channels": 4, **config})
    return folder


def write_pipeline(
    folder: Path,
    base: str,
    *,
    channels: int = 4,
    class_name: str = "",
    prediction_type: str | None = "epsilon",
    unet_config: Mapping[str, Any] | None = None,
) -> Path:
    """A diffusers folder of a main model, with the true shapes of every component."""
    xl = base.startswith("sdxl")
    index: dict[str, Any] = {
        "_class_name": class_name or ("StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"),
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    unet = dict(table(f"unet.{base}.diffusers"))
    unet["conv_in.weight"] = [unet["conv_in.weight"][0], channels, 3, 3]
    write_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", unet)
    _write_json(
        folder / "unet" / "config.json",
        {
            "_class_name": "UNet2DConditionModel",
            "in_channels": channels,
            **(UNET_CONFIGS[base] if unet_config is None else unet_config),
        },
    )
    write_vae_folder(folder / "vae")
    scheduler: dict[str, Any] = {"_class_name": "EulerDiscreteScheduler"}
    if prediction_type is not None:
        scheduler["prediction_type"] = prediction_type
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    if base in _CLIP:
        index |= {
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
        }
        text = table(f"text.{_CLIP[base]}.transformers")
        write_safetensors(folder / "text_encoder" / "model.safetensors", text)
        _write_json(folder / "text_encoder" / "config.json", {"architectures": ["CLIPTextModel"]})
        _write_json(folder / "tokenizer" / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"})
    if xl:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        write_safetensors(
            folder / "text_encoder_2" / "model.safetensors", table("text.openclip-g.transformers")
        )
    _write_json(folder / "model_index.json", index)
    return folder


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
