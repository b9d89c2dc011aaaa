"""What a configuration may say to the classes that may be built: known keys, values within reason.

A configuration comes with a model, so from strangers. Its keys are looked up here, per class; what stands
under others never reaches a library, since libraries let some of them choose code (``auto_map``), other
packages (``quantization_config``) or kernels from a hub (``attn_implementation``). This module imports
neither torch nor the libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final, NoReturn

from modelkeep.exceptions import InvalidModelException
from modelkeep.quantised import METHODS

#: What a configuration may set for the attention. Others are code of other packages; a name with a slash is
#: code from the library's hub.
ATTENTIONS: Final = ("eager", "sdpa")
_ATTENTION_KEYS: Final = ("attn_implementation", "_attn_implementation")

#: Entries of a list, and characters of a word.
_MAX_ENTRIES: Final = 64
_MAX_WORD: Final = 200
#: Entries of a list that has one for each step of a schedule; there are a thousand steps, mostly.
_MAX_STEPS: Final = 10_000
#: The largest size of any kind, and those that have another bound. The widest published layers have some
#: ten thousand features, the deepest models some hundred layers.
_MAX_SIZE: Final = 1 << 20
_MAX_NUMBER: Final = 1e9
_MAX: Final[Mapping[str, int]] = {
    "vocab_size": 1 << 21,
    **dict.fromkeys(
        (
            "layers_per_block",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "num_hidden_layers",
            "num_layers",
            "num_single_layers",
            "num_decoder_layers",
        ),
        1000,
    ),
}

_DIFFUSERS: Final = "_class_name _diffusers_version"
_TRANSFORMERS: Final = (
    "architectures transformers_version model_type output_hidden_states output_attentions return_dict "
    "chunk_size_feed_forward is_encoder_decoder tie_word_embeddings pad_token_id bos_token_id eos_token_id "
    "initializer_factor vocab_size attn_implementation _attn_implementation"
)
_CLIP: Final = (
    "hidden_size intermediate_size projection_dim num_hidden_layers num_attention_heads "
    "max_position_embeddings hidden_act layer_norm_eps attention_dropout initializer_range"
)
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(" ".join(keys).split())
    for name, keys in {
        "AutoencoderKL": (
            _DIFFUSERS,
            "in_channels out_channels down_block_types up_block_types block_out_channels layers_per_block",
            "act_fn latent_channels norm_num_groups sample_size scaling_factor shift_factor latents_mean",
            "latents_std force_upcast use_quant_conv use_post_quant_conv mid_block_add_attention",
        ),
        "UNet2DConditionModel": (
            _DIFFUSERS,
            "sample_size in_channels out_channels center_input_sample flip_sin_to_cos freq_shift",
            "down_block_types mid_block_type up_block_types only_cross_attention block_out_channels",
            "layers_per_block downsample_padding mid_block_scale_factor dropout act_fn norm_num_groups",
            "norm_eps cross_attention_dim transformer_layers_per_block reverse_transformer_layers_per_block",
            "encoder_hid_dim encoder_hid_dim_type attention_head_dim num_attention_heads",
            "dual_cross_attention use_linear_projection class_embed_type addition_embed_type",
            "addition_time_embed_dim num_class_embeds upcast_attention resnet_time_scale_shift",
            "resnet_skip_time_act resnet_out_scale_factor time_embedding_type time_embedding_dim",
            "time_embedding_act_fn timestep_post_act time_cond_proj_dim conv_in_kernel conv_out_kernel",
            "projection_class_embeddings_input_dim attention_type class_embeddings_concat",
            "mid_block_only_cross_attention cross_attention_norm addition_embed_type_num_heads",
        ),
        "FluxTransformer2DModel": (
            _DIFFUSERS,
            "patch_size in_channels out_channels num_layers num_single_layers attention_head_dim",
            "num_attention_heads joint_attention_dim pooled_projection_dim guidance_embeds axes_dims_rope",
        ),
        "SD3Transformer2DModel": (
            _DIFFUSERS,
            "sample_size patch_size in_channels num_layers attention_head_dim num_attention_heads",
            "joint_attention_dim caption_projection_dim pooled_projection_dim out_channels",
            "pos_embed_max_size dual_attention_layers qk_norm",
        ),
        "CLIPTextModel": (_TRANSFORMERS, _CLIP),
        "CLIPTextModelWithProjection": (_TRANSFORMERS, _CLIP),
        "T5EncoderModel": (
            _TRANSFORMERS,
            "d_model d_kv d_ff num_layers num_decoder_layers num_heads relative_attention_num_buckets",
            "relative_attention_max_distance dropout_rate layer_norm_epsilon feed_forward_proj use_cache",
            "classifier_dropout is_decoder dense_act_fn is_gated_act scale_decoder_outputs",
        ),
    }.items()
}


def known_keys(class_name: str) -> frozenset[str]:
    """Keys that a class is told."""
    return _KEYS[class_name]


def checked_config(class_name: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The part of a configuration that its class is told.

    Args:
        class_name: One of the classes that may be built (:mod:`modelkeep.worker.classes`).
        config: The configuration as a file has it.
        path: Where that file is, for messages.

    Raises:
        InvalidModelException: It asks for what is not to be had: weights quantised in a way that cannot be
            read, an attention from elsewhere, or sizes beyond reason.
    """
    if quantized := config.get("quantization_config"):
        _check_quantisation(quantized, path)
    for key in _ATTENTION_KEYS:
        if (attention := config.get(key)) is not None and attention not in ATTENTIONS:
            allowed = ", ".join(ATTENTIONS)
            _bad(path, f"the attention {_said(attention)} is not among those that may be used ({allowed})")
    known = _KEYS[class_name]
    taken = {key: value for key, value in config.items() if key in known}
    for key, value in taken.items():
        _check(key, value, path, levels=2)
    return taken


def check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """The settings of a scheduler: within reason, since it makes tables of such sizes.

    Raises:
        InvalidModelException: One is not; it is named.
    """
    for key, value in settings.items():
        _check(key, value, path, levels=2, entries=_MAX_STEPS)


def _check_quantisation(quantised: object, path: Path) -> None:
    """How its weights are quantised, by a method whose tensors tell the rest; nothing of it is obeyed."""
    facts = quantised if isinstance(quantised, dict) else {"quant_method": quantised}
    method = facts.get("quant_method")
    if method is None and (facts.get("load_in_8bit") or facts.get("load_in_4bit")):
        method = "bitsandbytes"
    if method not in METHODS:
        what = f"quantised weights ({_said(method)}) cannot be lent: use one that is not quantised"
        _bad(path, what, "Use this model's folder in float16, bfloat16 or float32.")
    edges = facts.get("weight_block_size") or ()
    if not isinstance(edges, list | tuple) or any(type(e) is not int or e < 1 or e & (e - 1) for e in edges):
        _bad(path, f"scales for blocks of {_said(edges)} numbers cannot be read")


def _check(key: str, value: object, path: Path, levels: int, entries: int = _MAX_ENTRIES) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        limit = _MAX.get(key, _MAX_SIZE)
        if not -1 <= value <= limit:
            _bad(path, f"{key} is {_said(value)}, not within the {limit:,} that models have")
    elif isinstance(value, float):
        if not isfinite(value) or abs(value) > _MAX_NUMBER:
            _bad(path, f"{key} is {value}, which no model has")
    elif isinstance(value, str):
        if len(value) > _MAX_WORD:
            _bad(path, f"{key} is a word of {len(value):,} characters")
    elif isinstance(value, (list, tuple)) and levels:
        if len(value) > entries:
            _bad(path, f"{key} has {len(value):,} entries, more than the {entries:,} that models have")
        for entry in value:
            _check(key, entry, path, levels - 1, entries)
    else:
        _bad(path, f"{key} is neither a number, nor a word, nor a list of them")


def _said(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _bad(path: Path, detail: str, remedy: str = "") -> NoReturn:
    raise InvalidModelException(
        f"{path.name} in {path.parent.name}: {detail}.",
        metadata={"path": str(path), "detail": detail},
        remedy=remedy,
    )
