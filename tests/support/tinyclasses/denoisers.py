"""Tiny models of diffusers' denoisers and of what steers them: configurations, and what to run them on."""

from __future__ import annotations

from typing import Any

import torch

CROSS = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}
UNET = {
    **CROSS,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
UNET_3D = {
    **CROSS,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}
CONTROL = {
    **CROSS,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "conditioning_embedding_out_channels": (16, 32),
}
FLUX = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 4, 8),
}
SD3 = {
    "sample_size": 8,
    "in_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 64,
    "out_channels": 4,
    "pos_embed_max_size": 16,
}
SANA = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 4,
    "num_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "cross_attention_dim": 8,
    "caption_channels": 8,
    "sample_size": 8,
}
HUNYUAN_DIT = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "hidden_size": 24,
    "cross_attention_dim": 8,
    "cross_attention_dim_t5": 8,
    "pooled_projection_dim": 4,
    "text_len": 4,
    "text_len_t5": 4,
}
QWEN = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 16,
    "axes_dims_rope": (8, 4, 4),
}
STEP = torch.tensor([3.0])


def r(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def unet() -> dict[str, Any]:
    return {"sample": r(1, 4, 8, 8), "timestep": STEP, "encoder_hidden_states": r(1, 4, 32)}


def unet_3d() -> dict[str, Any]:
    return {"sample": r(1, 4, 2, 8, 8), "timestep": STEP, "encoder_hidden_states": r(1, 4, 32)}


def flux() -> dict[str, Any]:
    return {
        "hidden_states": r(1, 16, 4),
        "encoder_hidden_states": r(1, 4, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(4, 3),
    }


def latents(*, width: int, **more: Any) -> dict[str, Any]:
    return {"hidden_states": r(1, 4, 8, 8), "encoder_hidden_states": r(1, 4, width), "timestep": STEP, **more}


def hunyuan_dit() -> dict[str, Any]:
    return {
        "hidden_states": r(1, 4, 16, 16),
        "timestep": STEP,
        "encoder_hidden_states": r(1, 4, 8),
        "text_embedding_mask": torch.ones(1, 4),
        "encoder_hidden_states_t5": r(1, 4, 8),
        "text_embedding_mask_t5": torch.ones(1, 4),
        "image_meta_size": torch.ones(1, 6),
        "style": torch.zeros(1, dtype=torch.long),
        "image_rotary_emb": [r(64, 8), r(64, 8)],
    }


def qwen() -> dict[str, Any]:
    return {
        "hidden_states": r(1, 16, 16),
        "encoder_hidden_states": r(1, 4, 16),
        "encoder_hidden_states_mask": torch.ones(1, 4, dtype=torch.long),
        "timestep": torch.tensor([0.5]),
        "img_shapes": [[(1, 4, 4)]],
    }


def sizes() -> dict[str, Any]:
    return {name: torch.tensor([[8.0, 8.0]]) for name in ("original_size", "target_size", "crop_coords")}


def control() -> dict[str, Any]:
    return {**unet(), "controlnet_cond": r(1, 3, 16, 16)}


#: Class → its configuration, and what makes its inputs.
MADE: dict[str, tuple[dict[str, Any], Any]] = {
    "AuraFlowTransformer2DModel": (
        {
            "sample_size": 8,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 32,
            "pos_embed_max_size": 256,
        },
        lambda: latents(width=32),
    ),
    "BriaTransformer2DModel": ({**FLUX, "pooled_projection_dim": None}, flux),
    "ChromaTransformer2DModel": (
        {**FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        flux,
    ),
    "CogView3PlusTransformer2DModel": (
        {
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 4,
            "num_attention_heads": 2,
            "out_channels": 4,
            "text_embed_dim": 8,
            "time_embed_dim": 8,
            "condition_dim": 2,
            "pos_embed_max_size": 8,
            "sample_size": 8,
        },
        lambda: latents(width=8, **sizes()),
    ),
    "CogView4Transformer2DModel": (
        {
            "in_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 4,
            "num_attention_heads": 4,
            "out_channels": 4,
            "text_embed_dim": 8,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "rope_axes_dim": (64, 64),
        },
        lambda: latents(width=8, **sizes()),
    ),
    "ControlNetModel": (CONTROL, control),
    "ControlNetUnionModel": (
        {
            **CONTROL,
            "num_control_type": 2,
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 64,
        },
        None,
    ),
    "DiTTransformer2DModel": (
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 1,
            "sample_size": 8,
            "out_channels": 8,
            "num_embeds_ada_norm": 8,
        },
        lambda: {"hidden_states": r(1, 4, 8, 8), "timestep": STEP, "class_labels": torch.tensor([1])},
    ),
    "FluxControlNetModel": (
        {**FLUX, "pooled_projection_dim": 32},
        lambda: {**flux(), "controlnet_cond": r(1, 16, 4), "pooled_projections": r(1, 32)},
    ),
    "FluxTransformer2DModel": (
        {**FLUX, "pooled_projection_dim": 32, "guidance_embeds": True},
        lambda: {**flux(), "pooled_projections": r(1, 32), "guidance": torch.tensor([3.5])},
    ),
    "Flux2Transformer2DModel": (
        {**FLUX, "axes_dims_rope": (4, 4, 4, 4)},
        lambda: {
            **flux(),
            "img_ids": torch.zeros(1, 16, 4),
            "txt_ids": torch.zeros(1, 4, 4),
            "guidance": torch.tensor([3.5]),
        },
    ),
    "HunyuanDiT2DControlNetModel": (
        {**HUNYUAN_DIT, "transformer_num_layers": 4},
        lambda: {**hunyuan_dit(), "controlnet_cond": r(1, 4, 16, 16)},
    ),
    "HunyuanDiT2DModel": ({**HUNYUAN_DIT, "num_layers": 2}, hunyuan_dit),
    "I2VGenXLUNet": (
        {**UNET_3D, "attention_head_dim": 4},
        lambda: {
            **unet_3d(),
            "fps": torch.tensor([2]),
            "image_latents": r(1, 4, 2, 8, 8),
            "image_embeddings": r(1, 32),
        },
    ),
    "Lumina2Transformer2DModel": (
        {
            "sample_size": 16,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 2,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (128, 128, 128),
            "cap_feat_dim": 32,
        },
        lambda: latents(width=32, encoder_attention_mask=torch.ones(1, 4, dtype=torch.bool)),
    ),
    "MotionAdapter": (
        {
            "block_out_channels": (32, 64),
            "motion_layers_per_block": 1,
            "motion_num_attention_heads": 2,
            "motion_norm_num_groups": 4,
        },
        None,
    ),
    "PixArtTransformer2DModel": (
        {
            "sample_size": 8,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 8,
            "use_additional_conditions": False,
        },
        lambda: latents(width=8, added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
    ),
    "PriorTransformer": (
        {
            "num_attention_heads": 2,
            "attention_head_dim": 4,
            "num_layers": 2,
            "embedding_dim": 8,
            "num_embeddings": 7,
        },
        lambda: {
            "hidden_states": r(1, 8),
            "timestep": STEP,
            "proj_embedding": r(1, 8),
            "encoder_hidden_states": r(1, 7, 8),
        },
    ),
    "QwenImageControlNetModel": (QWEN, lambda: {**qwen(), "controlnet_cond": r(1, 16, 16)}),
    "QwenImageTransformer2DModel": (QWEN, qwen),
    "SD3ControlNetModel": (
        SD3,
        lambda: latents(width=32, pooled_projections=r(1, 64), controlnet_cond=r(1, 4, 8, 8)),
    ),
    "SD3Transformer2DModel": (
        {**SD3, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        lambda: latents(width=32, pooled_projections=r(1, 64)),
    ),
    "SanaControlNetModel": (SANA, lambda: latents(width=8, controlnet_cond=r(1, 4, 8, 8))),
    "SanaTransformer2DModel": (SANA, lambda: latents(width=8)),
    "StableAudioDiTModel": (
        {
            "sample_size": 4,
            "in_channels": 3,
            "num_layers": 2,
            "attention_head_dim": 4,
            "num_attention_heads": 4,
            "num_key_value_attention_heads": 2,
            "out_channels": 3,
            "cross_attention_dim": 4,
            "time_proj_dim": 8,
            "global_states_input_dim": 8,
            "cross_attention_input_dim": 4,
        },
        lambda: {
            "hidden_states": r(1, 3, 4),
            "timestep": STEP,
            "encoder_hidden_states": r(1, 4, 4),
            "global_hidden_states": r(1, 1, 8),
        },
    ),
    "StableCascadeUNet": (
        {
            "in_channels": 4,
            "out_channels": 4,
            "conditioning_dim": 16,
            "block_out_channels": (8, 8),
            "num_attention_heads": (2, 2),
            "down_num_layers_per_block": (1, 1),
            "up_num_layers_per_block": (1, 1),
            "clip_text_pooled_in_channels": 8,
        },
        lambda: {
            "sample": r(1, 4, 8, 8),
            "timestep_ratio": torch.tensor([0.5]),
            "clip_text_pooled": r(1, 1, 8),
        },
    ),
    "T2IAdapter": (
        {"channels": [32, 64], "num_res_blocks": 1, "downscale_factor": 2},
        lambda: {"x": r(1, 3, 16, 16)},
    ),
    "Transformer2DModel": (
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 32,
            "norm_num_groups": 8,
            "cross_attention_dim": 32,
            "norm_type": "layer_norm",
        },
        lambda: {"hidden_states": r(1, 32, 8, 8), "encoder_hidden_states": r(1, 4, 32)},
    ),
    "UNet1DModel": (
        {"sample_size": 16, "in_channels": 2, "out_channels": 2, "extra_in_channels": 64},
        lambda: {"sample": r(1, 2, 256), "timestep": STEP},
    ),
    "UNet2DConditionModel": (UNET, unet),
    "UNet2DModel": (
        {
            "sample_size": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
        },
        lambda: {"sample": r(1, 3, 8, 8), "timestep": STEP},
    ),
    "UNet3DConditionModel": (UNET_3D, unet_3d),
    "UNetMotionModel": (
        {
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 16,
            "norm_num_groups": 2,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "num_attention_heads": 2,
        },
        None,
    ),
    "UNetSpatioTemporalConditionModel": (
        {
            "in_channels": 4,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "num_attention_heads": (2, 2),
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 96,
        },
        lambda: {
            "sample": r(1, 2, 4, 8, 8),
            "timestep": STEP,
            "encoder_hidden_states": r(1, 1, 32),
            "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]]),
        },
    ),
    "ZImageTransformer2DModel": (
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 16,
            "axes_dims": [8, 4, 4],
            "axes_lens": [256, 32, 32],
        },
        lambda: {"x": [r(4, 1, 8, 8)], "t": torch.tensor([0.5]), "cap_feats": [r(4, 16)]},
    ),
}
