"""Tiny models of the classes of transformers that pipelines have: configurations, and what to run them on."""

from __future__ import annotations

from typing import Any

import torch

TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIP = {"text_config": {**TEXT, "projection_dim": 32}, "vision_config": {**VISION, "projection_dim": 32}}
SIGLIP_TEXT = {name: value for name, value in TEXT.items() if name != "projection_dim"}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
QWEN_VL = {
    "text_config": {
        **GROUPED,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 4,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "patch_size": 4,
    },
}
QWEN3_VL = {
    "text_config": QWEN_VL["text_config"],
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}
BLIP = {"text_config": {**TEXT, "projection_dim": 32}, "vision_config": VISION, "projection_dim": 32}


def words() -> dict[str, Any]:
    return {"input_ids": torch.arange(2, 12)[None]}


def picture() -> dict[str, Any]:
    return {"pixel_values": torch.randn(1, 3, 32, 32)}


def both() -> dict[str, Any]:
    return {**words(), **picture()}


#: Class → its configuration, and what makes its inputs.
MADE: dict[str, tuple[dict[str, Any], Any]] = {
    "BertModel": (TEXT, words),
    "CLIPModel": (CLIP, both),
    "CLIPTextModel": ({**TEXT, "projection_dim": 32}, words),
    "CLIPTextModelWithProjection": ({**TEXT, "projection_dim": 32}, words),
    "CLIPVisionModel": (VISION, picture),
    "CLIPVisionModelWithProjection": ({**VISION, "projection_dim": 32}, picture),
    "BlipForConditionalGeneration": (BLIP, both),
    "DPTForDepthEstimation": (
        {
            **VISION,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
            "is_hybrid": False,
        },
        picture,
    ),
    "Gemma2ForCausalLM": (GROUPED, words),
    "Gemma2Model": (GROUPED, words),
    "GemmaForCausalLM": (GROUPED, words),
    "GemmaModel": (GROUPED, words),
    "GlmForCausalLM": (GROUPED, words),
    "GlmModel": (GROUPED, words),
    "GPT2LMHeadModel": (
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        words,
    ),
    "LlamaForCausalLM": (GROUPED, words),
    "LlamaModel": (GROUPED, words),
    "MistralForCausalLM": (GROUPED, words),
    "MistralModel": (GROUPED, words),
    "Qwen2ForCausalLM": (GROUPED, words),
    "Qwen2Model": (GROUPED, words),
    "Qwen2VLForConditionalGeneration": (
        {
            **QWEN_VL,
            "vision_config": {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "mlp_ratio": 1,
                "patch_size": 4,
            },
        },
        words,
    ),
    "Qwen2_5_VLForConditionalGeneration": (QWEN_VL, words),
    "Qwen3ForCausalLM": (GROUPED, words),
    "Qwen3Model": (GROUPED, words),
    "Qwen3VLForConditionalGeneration": (QWEN3_VL, words),
    "RobertaModel": ({**TEXT, "pad_token_id": 1, "max_position_embeddings": 66}, words),
    "SiglipModel": ({"text_config": SIGLIP_TEXT, "vision_config": VISION}, both),
    "SiglipVisionModel": (VISION, picture),
    "SmolLM3ForCausalLM": (GROUPED, words),
    "SmolLM3Model": (GROUPED, words),
    "T5EncoderModel": (T5, words),
    "T5ForConditionalGeneration": (T5, lambda: {**words(), "decoder_input_ids": torch.tensor([[1, 2]])}),
    "UMT5EncoderModel": (T5, words),
    "ViTModel": (VISION, picture),
    "XLMRobertaModel": ({**TEXT, "max_position_embeddings": 66}, words),
    "StableDiffusionSafetyChecker": (CLIP, None),
    "ClapTextModelWithProjection": ({**TEXT, "max_position_embeddings": 66, "projection_dim": 32}, words),
}
