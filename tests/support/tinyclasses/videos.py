"""Tiny models of diffusers' denoisers of videos: configurations, and what to run them on."""

from __future__ import annotations

from typing import Any

import torch

from support.tinyclasses.denoisers import STEP, r

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 256,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def wan() -> dict[str, Any]:
    return {
        "hidden_states": r(1, 4, 2, 8, 8),
        "timestep": torch.tensor([3]),
        "encoder_hidden_states": r(1, 4, 16),
    }


#: Class → its configuration, and what makes its inputs.
MADE: dict[str, tuple[dict[str, Any], Any]] = {
    "CogVideoXTransformer3DModel": (
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 2,
            "text_embed_dim": 8,
            "num_layers": 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 8,
            "max_text_seq_length": 4,
        },
        lambda: {"hidden_states": r(1, 2, 4, 8, 8), "encoder_hidden_states": r(1, 4, 8), "timestep": STEP},
    ),
    "HunyuanVideoTransformer3DModel": (
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
        lambda: {
            "hidden_states": r(1, 4, 1, 8, 8),
            "timestep": torch.tensor([3]),
            "encoder_hidden_states": r(1, 4, 16),
            "encoder_attention_mask": torch.ones(1, 4),
            "pooled_projections": r(1, 8),
            "guidance": torch.tensor([1000.0]),
        },
    ),
    "LTXVideoTransformer3DModel": (
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 1,
            "caption_channels": 16,
        },
        lambda: {
            "hidden_states": r(1, 32, 4),
            "encoder_hidden_states": r(1, 4, 16),
            "timestep": STEP,
            "encoder_attention_mask": torch.ones(1, 4),
            "num_frames": 2,
            "height": 4,
            "width": 4,
        },
    ),
    "MochiTransformer3DModel": (
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 4,
            "max_sequence_length": 16,
        },
        lambda: {
            "hidden_states": r(1, 4, 2, 8, 8),
            "encoder_hidden_states": r(1, 16, 16),
            "timestep": STEP,
            "encoder_attention_mask": torch.ones(1, 16, dtype=torch.bool),
        },
    ),
    "WanTransformer3DModel": (WAN, wan),
    "WanVACETransformer3DModel": (
        {**WAN, "vace_layers": [0], "vace_in_channels": 6},
        lambda: {**wan(), "control_hidden_states": r(1, 6, 2, 8, 8)},
    ),
}
