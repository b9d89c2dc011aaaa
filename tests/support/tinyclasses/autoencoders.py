"""Tiny models of diffusers' autoencoders, and of the small models that stand beside them in pipelines."""

from __future__ import annotations

from typing import Any

import torch

WIDTHS = (32, 64)
DOWN, UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2


def image() -> dict[str, Any]:
    return {"sample": torch.randn(1, 3, 16, 16)}


def video() -> dict[str, Any]:
    return {"sample": torch.randn(1, 3, 9, 16, 16)}


KL = {"down_block_types": DOWN, "up_block_types": UP, "block_out_channels": WIDTHS, "layers_per_block": 1}
WAN = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False]}

#: Class → its configuration, and what makes its inputs.
MADE: dict[str, tuple[dict[str, Any], Any]] = {
    "AsymmetricAutoencoderKL": (
        {
            "down_block_types": DOWN,
            "up_block_types": UP,
            "down_block_out_channels": WIDTHS,
            "up_block_out_channels": WIDTHS,
        },
        image,
    ),
    "AutoencoderDC": (
        {
            "latent_channels": 4,
            "attention_head_dim": 2,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
        },
        image,
    ),
    "AutoencoderKL": (KL, image),
    "AutoencoderKLCogVideoX": (
        {
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 2,
        },
        video,
    ),
    "AutoencoderKLFlux2": (KL, image),
    "AutoencoderKLHunyuanVideo": (
        {
            "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
            "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        video,
    ),
    "AutoencoderKLLTXVideo": (
        {
            "latent_channels": 8,
            "block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
        },
        lambda: {"sample": torch.randn(1, 3, 9, 32, 32)},
    ),
    "AutoencoderKLQwenImage": (WAN, video),
    "AutoencoderKLTemporalDecoder": (
        {"down_block_types": DOWN, "block_out_channels": WIDTHS},
        lambda: {"sample": torch.randn(2, 3, 16, 16), "num_frames": 2},
    ),
    "AutoencoderKLWan": (WAN, video),
    "AutoencoderTiny": (
        {
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
        },
        image,
    ),
    "ConsistencyDecoderVAE": (
        {
            "encoder_block_out_channels": WIDTHS,
            "encoder_down_block_types": DOWN,
            "encoder_layers_per_block": 1,
            "decoder_block_out_channels": WIDTHS,
            "decoder_down_block_types": ("ResnetDownsampleBlock2D",) * 2,
            "decoder_up_block_types": ("ResnetUpsampleBlock2D",) * 2,
            "decoder_layers_per_block": 1,
        },
        lambda: {**image(), "generator": torch.Generator().manual_seed(0)},
    ),
    "VQModel": ({**KL, "num_vq_embeddings": 16, "vq_embed_dim": 4, "latent_channels": 3}, image),
    "StableUnCLIPImageNormalizer": ({"embedding_dim": 8}, None),
    "CLIPImageProjection": ({"hidden_size": 8}, lambda: {"x": torch.randn(1, 8)}),
    "ReduxImageEncoder": ({"redux_dim": 8, "txt_in_features": 16}, lambda: {"x": torch.randn(1, 4, 8)}),
    "StableAudioProjectionModel": (
        {"text_encoder_dim": 8, "conditioning_dim": 8, "min_value": 0, "max_value": 32},
        lambda: {
            "text_hidden_states": torch.randn(1, 4, 8),
            "start_seconds": torch.tensor([1.0]),
            "end_seconds": torch.tensor([4.0]),
        },
    ),
}
