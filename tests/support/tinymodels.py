"""Small but real models: diffusers and transformers classes with seeded random weights, fp32.

They are written to disk by the libraries' own save_pretrained, so that everything downstream meets the
files it will meet in life, only smaller. Needs torch; takes some seconds of imports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

#: Words that the tiny tokenizer knows as one token each.
WORDS = ("a", "photo", "of", "an", "astronaut", "cat", "dog", "riding", "horse", "on", "mars", "the")


def vae(*, seed: int = 0, widths: tuple[int, ...] = (32, 64, 128, 128)) -> Any:
    """An AutoencoderKL of Stable Diffusion's shape: 4 latent channels, 8 pixels a latent."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
    ).eval()


def unet(*, seed: int = 1, cross_attention_dim: int = 64) -> Any:
    """A UNet2DConditionModel with two resolutions and cross attention."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=8,
    ).eval()


def text_encoder(*, seed: int = 2, width: int = 64, projection: bool = False) -> Any:
    """A CLIP text encoder of two layers; with a projection, as SDXL's second one."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5_encoder(*, seed: int = 3, d_ff: int = 64, vocabulary: int = 200) -> Any:
    """A T5 encoder: tied embeddings, and layers that stay in float32 when the rest is float16."""
    torch.manual_seed(seed)
    config = T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=d_ff, num_layers=2, num_heads=4)
    return T5EncoderModel(config).eval()


def tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer with a vocabulary of letters and a few words, made without the internet."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    merges = ["#version: 0.2"]
    for letter in "abcdefghijklmnopqrstuvwxyz0123456789,.!-":
        vocab[letter] = len(vocab)
        vocab[f"{letter}</w>"] = len(vocab)
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            left, right = pieces[0], pieces[1]
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
            pieces[:2] = [left + right]
            vocab.setdefault(pieces[0], len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, pad_token="<|endoftext|>"
    )


def save_pipeline(folder: Path, *, seed: int = 0, widths: tuple[int, ...] = (32, 64, 128, 128)) -> Path:
    """Write a whole Stable Diffusion pipeline in diffusers' folder layout; tens of MB.

    Args:
        folder: Is made. A scratch folder beside it is used and removed.
        seed: Another seed gives other weights in the same shapes.
        widths: Channels of the VAE's blocks; (128, 256, 512, 512) are the true ones (335 MB).
    """
    scratch = folder.with_name(f"{folder.name}.tokenizer")
    words = tokenizer(scratch)
    pipeline = StableDiffusionPipeline(
        vae=vae(seed=seed, widths=widths),
        text_encoder=text_encoder(seed=seed + 2),
        tokenizer=words,
        unet=unet(seed=seed + 1),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for leftover in scratch.iterdir():
        leftover.unlink()
    scratch.rmdir()
    return folder


def save_vae_file(path: Path, *, seed: int = 0, ldm: bool = False, prefix: str = "") -> Path:
    """Write a standalone VAE as one safetensors file, with diffusers' or latent-diffusion's names.

    Args:
        path: The file.
        seed: Another seed gives other weights.
        ldm: Latent-diffusion's names.
        prefix: Put before every name, as "first_stage_model." in a full checkpoint.
    """
    state = vae(seed=seed).state_dict()
    if ldm:
        state = to_ldm(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: tensor.contiguous() for name, tensor in state.items()}, str(path))
    return path


def to_ldm(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename an AutoencoderKL's tensors to latent-diffusion's layout, the inverse of what diffusers does."""
    blocks = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("encoder.down_blocks."))
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        new = name
        for i in range(blocks):
            for kind in ("resnets", "downsamplers", "upsamplers"):
                old = f"encoder.down_blocks.{i}.{kind}."
                if new.startswith(old):
                    rest = new.removeprefix(old)
                    new = f"encoder.down.{i}." + (
                        f"block.{rest}" if kind == "resnets" else f"downsample.{rest.split('.', 1)[1]}"
                    )
                old = f"decoder.up_blocks.{i}.{kind}."
                if new.startswith(old):
                    rest = new.removeprefix(old)
                    new = f"decoder.up.{blocks - 1 - i}." + (
                        f"block.{rest}" if kind == "resnets" else f"upsample.{rest.split('.', 1)[1]}"
                    )
        for i in (0, 1):
            new = new.replace(f"mid_block.resnets.{i}.", f"mid.block_{i + 1}.")
        new = new.replace("mid_block.attentions.0.", "mid.attn_1.").replace("conv_norm_out", "norm_out")
        new = new.replace("conv_shortcut", "nin_shortcut")
        if ".attn_1." in new:
            for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
                new = new.replace(f".attn_1.{ours}.", f".attn_1.{theirs}.")
            new = new.replace(".attn_1.to_out.0.", ".attn_1.proj_out.")
            if new.endswith("weight") and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        renamed[new] = tensor
    return renamed
