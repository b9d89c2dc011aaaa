"""Original checkpoints: tiny modules under the names that their first publishers gave their tensors.

Each is the inverse of what diffusers does to such a file, written down on its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from support import tinymodels

State = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_HEADS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet(base: str, *, channels: int = 4, seed: int = 1) -> Any:
    """A small UNet of a base: its numbers of levels and blocks, and heads of 64 features (SD 1: 8 heads)."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {"in_channels": channels, "layers_per_block": 2, "norm_num_groups": 32}
    if base in ("sd-1", "sd-2"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(64, 128),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=8 if base == "sd-1" else [1, 2],
            use_linear_projection=base == "sd-2",
            **common,
        ).eval()
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2],
        cross_attention_dim=128,
        attention_head_dim=[1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=256 * 6 + 64,
        **common,
    ).eval()


def clip(
    *, width: int = 64, layers: int = 2, projects: bool = False, act: str = "quick_gelu", seed: int = 2
) -> Any:
    """A CLIP text encoder of heads with 64 features, as every published one has."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=500,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act=act,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(config).eval()


def t5(*, seed: int = 3) -> Any:
    """A T5 encoder with gates, as T5 v1.1 has them."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=200,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config).eval()


def sd3(*, dual: tuple[int, ...] = (0,), norm: bool = True, seed: int = 4) -> Any:
    """A transformer of Stable Diffusion 3.5's kind, two layers deep."""
    torch.manual_seed(seed)
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=128,
        pooled_projection_dim=32,
        pos_embed_max_size=12,
        dual_attention_layers=dual,
        qk_norm="rms_norm" if norm else None,
    ).eval()


def ldm_unet(module: Any) -> State:
    """A UNet's tensors under the names of latent-diffusion."""
    per_level = module.config.layers_per_block
    found: State = {}
    for name, tensor in module.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer in _HEADS:
            found[f"{_HEADS[layer]}.{kind}"] = tensor
            continue
        parts = name.split(".")
        if parts[0] == "mid_block":
            what, at = parts[1], int(parts[2])
            block = f"middle_block.{2 * at if what == 'resnets' else 1}"
            rest = parts[3:]
        else:
            level, what, at = int(parts[1]), parts[2], int(parts[3])
            rest = parts[4:]
            down = parts[0] == "down_blocks"
            count = per_level + 1
            if what == "downsamplers":
                block, rest = f"input_blocks.{count * level + count}.0", ["op", *rest[1:]]
            elif what == "upsamplers":
                attends = f"up_blocks.{level}.attentions.0.norm.weight" in module.state_dict()
                block = f"output_blocks.{count * level + count - 1}.{2 if attends else 1}"
            else:
                number = count * level + at + (1 if down else 0)
                block = f"{'input' if down else 'output'}_blocks.{number}.{0 if what == 'resnets' else 1}"
        if what == "resnets":
            rest = [*_RESNET[rest[0]].split("."), *rest[1:]]
        found[".".join([block, *rest])] = tensor
    return found


def openclip(module: Any, *, text_projection: bool = True) -> State:
    """A CLIP text encoder's tensors under the names of OpenCLIP, where query, key and value are one."""
    state = {name.removeprefix("text_model."): t for name, t in module.state_dict().items()}
    found: State = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    width = module.config.hidden_size
    if text_projection:
        own = state.get("text_projection.weight")
        found["text_projection"] = own.T.contiguous() if own is not None else torch.eye(width)
    for layer in range(module.config.num_hidden_layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            qkv = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(qkv)
            found[f"{new}.attn.out_proj.{kind}"] = state[f"{old}.self_attn.out_proj.{kind}"]
            for ours, theirs in (("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                found[f"{new}.{theirs}.{kind}"] = state[f"{old}.{ours}.{kind}"]
            for number in (1, 2):
                found[f"{new}.ln_{number}.{kind}"] = state[f"{old}.layer_norm{number}.{kind}"]
    return found


def hf_clip(module: Any) -> State:
    """A CLIP text encoder's tensors as files have them, under ``text_model.``."""
    return {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": tensor
        for name, tensor in module.state_dict().items()
    }


def mmdit(module: Any) -> State:
    """An SD 3 transformer's tensors under the names of its publisher."""
    state: State = module.state_dict()
    last = module.config.num_layers - 1
    found: State = {"pos_embed": state["pos_embed.pos_embed"]}
    plain = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
    }
    joined: dict[str, tuple[str, ...]] = {}
    turned = {"final_layer.adaLN_modulation.1": "norm_out.linear"}
    for layer in range(module.config.num_layers):
        theirs, ours = f"joint_blocks.{layer}", f"transformer_blocks.{layer}"
        attention = f"{ours}.attn"
        joined[f"{theirs}.x_block.attn.qkv"] = tuple(f"{attention}.to_{part}" for part in "qkv")
        joined[f"{theirs}.context_block.attn.qkv"] = tuple(f"{attention}.add_{part}_proj" for part in "qkv")
        plain[f"{theirs}.x_block.attn.proj"] = f"{attention}.to_out.0"
        plain[f"{theirs}.x_block.adaLN_modulation.1"] = f"{ours}.norm1.linear"
        plain[f"{theirs}.x_block.mlp.fc1"] = f"{ours}.ff.net.0.proj"
        plain[f"{theirs}.x_block.mlp.fc2"] = f"{ours}.ff.net.2"
        if layer in module.config.dual_attention_layers:
            joined[f"{theirs}.x_block.attn2.qkv"] = tuple(f"{ours}.attn2.to_{part}" for part in "qkv")
            plain[f"{theirs}.x_block.attn2.proj"] = f"{ours}.attn2.to_out.0"
        if layer == last:
            turned[f"{theirs}.context_block.adaLN_modulation.1"] = f"{ours}.norm1_context.linear"
        else:
            plain[f"{theirs}.context_block.adaLN_modulation.1"] = f"{ours}.norm1_context.linear"
            plain[f"{theirs}.context_block.attn.proj"] = f"{attention}.to_add_out"
            plain[f"{theirs}.context_block.mlp.fc1"] = f"{ours}.ff_context.net.0.proj"
            plain[f"{theirs}.context_block.mlp.fc2"] = f"{ours}.ff_context.net.2"
        if module.config.qk_norm:
            norms = {
                "x_block.attn": ("attn.norm_q", "attn.norm_k"),
                "context_block.attn": ("attn.norm_added_q", "attn.norm_added_k"),
            }
            if layer in module.config.dual_attention_layers:
                norms["x_block.attn2"] = ("attn2.norm_q", "attn2.norm_k")
            for block, (query, key) in norms.items():
                found[f"{theirs}.{block}.ln_q.weight"] = state[f"{ours}.{query}.weight"]
                found[f"{theirs}.{block}.ln_k.weight"] = state[f"{ours}.{key}.weight"]
    for kind in ("weight", "bias"):
        found |= {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for theirs, ours in plain.items()}
        for theirs, ours_of in joined.items():
            found[f"{theirs}.{kind}"] = torch.cat([state[f"{one}.{kind}"] for one in ours_of])
        for theirs, ours in turned.items():
            scale, shift = state[f"{ours}.{kind}"].chunk(2)
            found[f"{theirs}.{kind}"] = torch.cat([shift, scale])
    return found


def write(path: Path, parts: Mapping[str, State], **more: torch.Tensor) -> Path:
    """Write parts into one file, each under its prefix.

    Args:
        path: The file.
        parts: Prefix → tensors.
        more: Further tensors.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {prefix + name: t.clone() for prefix, part in parts.items() for name, t in part.items()}
    save_file({**state, **{name.replace("__", "."): tensor for name, tensor in more.items()}}, str(path))
    return path


def write_settings(folder: Path, modules: Mapping[str, Any]) -> None:
    """Write the configuration of each module into a folder of its name, and the weights of a T5."""
    for name, module in modules.items():
        if isinstance(module, T5EncoderModel):
            module.save_pretrained(folder / name)
        elif hasattr(module, "save_config"):
            module.save_config(folder / name)
        else:
            module.config.save_pretrained(folder / name)


def modules_of(base: str) -> tuple[dict[str, Any], dict[str, State]]:
    """Modules of a tiny model by their names as submodels, and its parts as one file has them, by prefix."""
    vae = tinymodels.vae(widths=(32, 64))
    modules: dict[str, Any] = {"vae": vae}
    parts: dict[str, State] = {"first_stage_model.": tinymodels.to_ldm(vae.state_dict())}
    if base in ("sd-1", "sd-2", "sdxl", "sdxl-refiner"):
        modules["unet"] = unet(base)
        parts["model.diffusion_model."] = ldm_unet(modules["unet"])
    if base == "sd-1":
        modules["text_encoder"] = clip()
        parts["cond_stage_model.transformer."] = hf_clip(modules["text_encoder"])
    elif base == "sd-2":
        modules["text_encoder"] = clip(act="gelu")
        parts["cond_stage_model.model."] = openclip(modules["text_encoder"])
    elif base == "sdxl":
        modules["text_encoder"] = clip()
        parts["conditioner.embedders.0.transformer."] = hf_clip(modules["text_encoder"])
        modules["text_encoder_2"] = clip(width=128, projects=True, act="gelu", seed=5)
        parts["conditioner.embedders.1.model."] = openclip(modules["text_encoder_2"])
    elif base == "sdxl-refiner":
        modules["text_encoder_2"] = clip(width=128, projects=True, act="gelu", seed=5)
        parts["conditioner.embedders.0.model."] = openclip(modules["text_encoder_2"])
    else:
        modules["transformer"] = sd3()
        parts["model.diffusion_model."] = mmdit(modules["transformer"])
        modules["text_encoder"] = clip(projects=True)
        # It comes without a projection, and its output is taken as it is.
        with torch.no_grad():
            modules["text_encoder"].text_projection.weight.copy_(torch.eye(64))
        parts["text_encoders.clip_l.transformer."] = {
            name: tensor
            for name, tensor in hf_clip(modules["text_encoder"]).items()
            if name != "text_projection.weight"
        }
        modules["text_encoder_2"] = clip(width=128, projects=True, act="gelu", seed=5)
        parts["text_encoders.clip_g.transformer."] = hf_clip(modules["text_encoder_2"])
        modules["text_encoder_3"] = t5()
        own = modules["text_encoder_3"].state_dict()
        parts["text_encoders.t5xxl.transformer."] = {
            name: tensor for name, tensor in own.items() if not re.search(r"embed_tokens", name)
        }
    return modules, parts
