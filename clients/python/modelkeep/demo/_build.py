"""Builds the demo's model, and says what the stock library makes of it: ``python -m modelkeep.demo._build``.

A complete Stable Diffusion 1 pipeline of diffusers' own classes with seeded random weights in fp32: few
layers, narrow, and the true widths where modules meet. Nothing about the folder is special.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from modelkeep.demo._answers import Answers
from modelkeep.demo._latents import decode, raw_bytes, weights_digest

#: Width of SD-1's text embeddings: by it a pipeline is known for an SD-1.
_TEXT_WIDTH = 768
#: Channels of the VAE's blocks. Most weights lie where the picture is smallest, so decoding stays quick.
_VAE_WIDTHS = (32, 32, 64, 192)


def build_pipeline(folder: Path) -> None:
    """Write the pipeline into a new folder, in diffusers' layout: some 60 MB, 29 of them the VAE."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=_VAE_WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=128,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=_TEXT_WIDTH,
    )
    with tempfile.TemporaryDirectory(prefix="modelkeep-tokenizer-") as scratch:
        tokenizer = _tokenizer(Path(scratch))
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=_TEXT_WIDTH,
                intermediate_size=_TEXT_WIDTH,
                num_hidden_layers=1,
                num_attention_heads=12,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=PNDMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                skip_prk_steps=True,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder)


def write_reference(folder: Path, path: Path) -> dict[str, Any]:
    """Decode with the VAE as diffusers itself loads it in bfloat16, and write the tensor's bytes.

    Returns:
        ``weights``, the digest of the weights, and ``seconds`` that loading took.
    """
    began = time.perf_counter()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.bfloat16).eval()
    seconds = time.perf_counter() - began
    path.write_bytes(raw_bytes(decode(vae)))
    return {"weights": weights_digest(vae), "seconds": seconds}


def _tokenizer(folder: Path) -> Any:
    """A tokenizer that spells every word in letters; made without the internet."""
    symbols = ["<|startoftext|>", "<|endoftext|>"]
    for letter in "abcdefghijklmnopqrstuvwxyz0123456789,.!-":
        symbols += [letter, f"{letter}</w>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({symbol: place for place, symbol in enumerate(symbols)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77, pad_token="<|endoftext|>")


def main() -> None:
    """Build into a folder that does not exist yet; half a model is never left there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", type=Path, help="also write the bytes that the VAE decodes to")
    given = parser.parse_args()
    answers = Answers()
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{given.folder.name}-", dir=given.folder.parent))
    try:
        build_pipeline(scratch)
        scratch.chmod(0o755)
        scratch.rename(given.folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    answers.give({"built": str(given.folder)})
    if given.reference is not None:
        answers.give(write_reference(given.folder, given.reference))


if __name__ == "__main__":
    main()
