"""What the table of families does not have yet, by the names of its tensors: words for people, never a base.

The first that fits counts, so the special stand before the general. Names are looked for with every ``.`` as
``_``, since LoRA files write them so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

#: (what it is, pattern that one of its names fits)
_NAMES: Final[tuple[tuple[str, str], ...]] = (
    ("an IP adapter", r"^ip_adapter(_\d|$)|^image_proj(_|$)|ip_adapter_double_stream"),
    ("a Control-LoRA", r"^lora_controlnet$"),
    ("a ControlNet-LLLite", r"^lllite_"),
    (
        "a ControlNet",
        r"^(control_model_)?(zero_convs_\d|input_hint_block_)"
        r"|controlnet_(cond_embedding|down_blocks|blocks|x_embedder)",
    ),
    ("a motion module of AnimateDiff", r"motion_modules_\d|temporal_transformer_transformer"),
    ("a T2I adapter", r"^(adapter_)?body_0_(block1|resnets)"),
    ("Stable Video Diffusion", r"time_stack|time_mixer|temporal_transformer_blocks"),
    ("Kolors", r"encoder_hid_proj"),
    ("FLUX.2", r"double_stream_modulation|single_stream_modulation|to_qkv_mlp_proj"),
    (
        "HunyuanVideo or HunyuanImage",
        r"txt_in_individual_token|context_embedder_token_refiner"
        r"|double_blocks_\d+_(img|txt)_(mlp_fc\d|mod_linear)",
    ),
    ("Chroma", r"distilled_guidance_layer"),
    (
        "FLUX, or a relative with its blocks",
        r"double_blocks_\d|single_blocks_\d|single_transformer_blocks_\d",
    ),
    ("Stable Diffusion 3, or another with a T5 encoder", r"joint_blocks_\d|lora_te3_"),
    ("Qwen-Image", r"transformer_blocks_\d+_(img|txt)_(mod|mlp)"),
    ("HiDream", r"double_stream_blocks_\d"),
    ("AuraFlow", r"joint_transformer_blocks_\d|^register_tokens"),
    (
        "Z-Image or Lumina 2",
        r"noise_refiner_\d|context_refiner_\d|cap_pad_token|layers_\d+_attention_(qkv|to_q|out|to_out)",
    ),
    ("Krea 2", r"txtfusion|txtmlp|blocks_\d+_attn_w[qkvo]"),
    ("Anima, or another model on Cosmos", r"blocks_\d+_(self|cross)_attn_[qkv]_proj|^llm_adapter"),
    ("Wan", r"blocks_\d+_(self|cross)_attn_[qkvo]|condition_embedder_time_proj"),
    ("a T5 text encoder", r"encoder_block_\d+_layer_\d_(SelfAttention|DenseReluDense)"),
    (
        "a language model",
        r"(^|_)model_layers_\d+_(self_attn|mlp)|encoder_layer_\d+_attention_self|^h_\d+_attn_c_attn",
    ),
    ("a CLIP image encoder", r"vision_model_(pre_layrnorm|encoder_layers)"),
    (
        "a CLIP text encoder",
        r"^(cond_stage_model_)?(transformer_)?text_model_encoder_layers|^(model_)?transformer_resblocks_\d",
    ),
    (
        "a transformer of another family",
        r"(^|_)transformer_blocks_\d+_(attn_|norm1_linear)",
    ),
    ("an upscaler", r"^conv_first|rdb1|RDB1|residual_group|^body_\d+_weight$|block_1_c1_r|^params"),
    ("a textual inversion", r"^(emb_params|string_to_param_.*|clip_[lg]|<.*>)$"),
    ("a small autoencoder (TAESD)", r"^((taesd_)?(encoder|decoder)_)?(layers_)?[13]_conv_0_weight$"),
    (
        "an autoencoder of another kind",
        r"^(first_stage_model_|vae_)?(encoder|decoder)_\w",
    ),
    (
        "a UNet alone",
        r"^(conv_in|input_blocks_0_0)_weight$|^(down_blocks|input_blocks|mid_block|middle_block)_",
    ),
)
#: As many names, and as much of each, as are looked at: a search holds the interpreter's lock to its end.
_MAX_NAMES: Final = 10_000
_MAX_LENGTH: Final = 120
_PATTERNS: Final = tuple((what, re.compile(pattern, re.MULTILINE)) for what, pattern in _NAMES)


def looks_like(names: Iterable[str]) -> tuple[str, str]:
    """(what these names speak of, the name that does); two empty texts if nothing is known of them."""
    original = "\n".join(name[:_MAX_LENGTH] for name in islice(names, _MAX_NAMES))
    plain = original.replace(".", "_")
    for what, pattern in _PATTERNS:
        if found := pattern.search(plain):
            start = plain.rfind("\n", 0, found.end()) + 1
            return what, original[start:].partition("\n")[0]
    return "", ""
