# mypy: ignore-errors
# (a script over three untyped libraries; nothing imports it)
"""Writes tests/data/shapes/*.json.gz: the true tensor names and shapes of real models, without weights.

Run once, when a family is added: ``python tests/support/make_shapes.py`` (needs torch, diffusers and
transformers; the tests that read the tables need none of them).

The architectures are built on torch's meta device from the published configs, so every name and shape is
the library's own. The names of the original single-file form ("ldm") come from the maps below, and each is
proved: diffusers' own converter from the single-file form must give back exactly the diffusers table.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
)

OUT = Path(__file__).parents[1] / "data" / "shapes"
Table = dict[str, list[int]]

UNETS: Mapping[str, dict[str, Any]] = {
    "sd-1": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-2": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": {
        "sample_size": 128,
        "cross_attention_dim": 1280,
        "attention_head_dim": [6, 12, 24, 24],
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
OPENCLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}
OPENCLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
}


def on_meta(build: Callable[[], torch.nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(build().state_dict())


def shapes(state: Mapping[str, torch.Tensor]) -> Table:
    return {name: list(tensor.shape) for name, tensor in state.items()}


# ---- diffusers -> ldm, UNet --------------------------------------------------------------------------
def unet_to_ldm(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The names of a UNet in the original checkpoints (without ``model.diffusion_model.``)."""
    levels = len(config.get("block_out_channels", [0] * 4))
    down_types = config.get("down_block_types", ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"])
    up_types = config.get("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
    prefixes: list[tuple[str, str]] = [
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    ]
    for i in range(levels):
        for j in range(2):
            prefixes.append((f"down_blocks.{i}.resnets.{j}", f"input_blocks.{3 * i + j + 1}.0"))
            prefixes.append((f"down_blocks.{i}.attentions.{j}", f"input_blocks.{3 * i + j + 1}.1"))
        prefixes.append((f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{3 * (i + 1)}.0.op"))
        for j in range(3):
            prefixes.append((f"up_blocks.{i}.resnets.{j}", f"output_blocks.{3 * i + j}.0"))
            prefixes.append((f"up_blocks.{i}.attentions.{j}", f"output_blocks.{3 * i + j}.1"))
        slot = 2 if up_types[i].startswith("CrossAttn") else 1
        prefixes.append((f"up_blocks.{i}.upsamplers.0", f"output_blocks.{3 * i + 2}.{slot}"))
    assert len(down_types) == levels
    resnet = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    ]
    out = {}
    for name, tensor in state.items():
        new = name
        for old, ldm in prefixes:
            if name.startswith(old + "."):
                new = ldm + name[len(old) :]
                break
        else:
            raise SystemExit(f"no original name for {name}")
        if ".resnets." in name:
            for old, ldm in resnet:
                new = new.replace(f".{old}.", f".{ldm}.")
        out[new] = tensor
    return out


# ---- diffusers -> ldm, VAE ---------------------------------------------------------------------------
def vae_to_ldm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    rules: list[tuple[str, str]] = [
        (r"^encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block."),
        (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
        (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
        (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
        (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
        (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
        (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
        (r"\.conv_norm_out\.", ".norm_out."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
    ]
    out = {}
    for name, tensor in state.items():
        new = name
        up = re.match(r"^decoder\.up_blocks\.(\d)\.(resnets|upsamplers\.0)\.(.*)$", name)
        if up:  # the decoder's levels are counted from the other end
            kind = "block" if up[2] == "resnets" else "upsample"
            new = f"decoder.up.{3 - int(up[1])}.{kind}.{up[3]}"
        for pattern, ldm in rules:
            new = re.sub(pattern, ldm, new)
        if ".mid.attn_1." in new and new.endswith(".weight") and ".norm." not in new:
            tensor = tensor[:, :, None, None]  # 1x1 convolutions in the original
        out[new] = tensor
    return out


# ---- transformers -> open_clip -----------------------------------------------------------------------
def clip_to_openclip(
    state: Mapping[str, torch.Tensor], hidden: int, projection: int
) -> dict[str, torch.Tensor]:
    """OpenCLIP's names, as in SD-2's and SDXL's single files; q, k and v are one matrix there."""
    meta = torch.device("meta")
    out: dict[str, torch.Tensor] = {
        "text_projection": torch.empty(hidden, projection, device=meta),
        "logit_scale": torch.empty((), device=meta),
    }
    names = [
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("self_attn.out_proj", "attn.out_proj"),
    ]
    for name, tensor in state.items():
        short = name.removeprefix("text_model.")
        if short == "embeddings.token_embedding.weight":
            out["token_embedding.weight"] = tensor
        elif short == "embeddings.position_embedding.weight":
            out["positional_embedding"] = tensor
        elif short.startswith("final_layer_norm."):
            out["ln_final." + short.rsplit(".", 1)[1]] = tensor
        elif short.startswith("encoder.layers."):
            new = short.replace("encoder.layers.", "transformer.resblocks.")
            if ".self_attn.q_proj." in new:
                kind = new.rsplit(".", 1)[1]
                stem = new.split(".self_attn.")[0]
                out[f"{stem}.attn.in_proj_{kind}"] = torch.empty((3 * hidden, *tensor.shape[1:]), device=meta)
            elif ".self_attn.k_proj." in new or ".self_attn.v_proj." in new:
                continue
            else:
                for old, open_clip in names:
                    new = new.replace(old, open_clip)
                out[new] = tensor
    return out


# ---- LoRA --------------------------------------------------------------------------------------------
def attention_modules(table: Table, *, ldm: bool) -> Table:
    """Linear layers (and 1x1 projections) inside the transformers: what kohya's trainer adapts by default."""
    inside = r"(?:input_blocks|output_blocks|middle_block)\." if ldm else r"\.attentions\.\d"
    return {
        name.removesuffix(".weight"): shape
        for name, shape in table.items()
        if name.endswith(".weight")
        and re.search(inside, name)
        and re.search(r"(transformer_blocks\.\d+\..*(to_|net\.)|proj_in|proj_out)", name)
        and len(shape) >= 2
    }


def text_modules(table: Table) -> Table:
    return {
        name.removesuffix(".weight"): shape
        for name, shape in table.items()
        if re.search(r"encoder\.layers\.\d+\.(self_attn\.\w+_proj|mlp\.fc\d)\.weight$", name)
    }


def kohya(modules: Table, prefix: str, rank: int = 16) -> Table:
    out: Table = {}
    for module, shape in modules.items():
        name = f"{prefix}_{module.replace('.', '_')}"
        tail = shape[2:]
        out[f"{name}.alpha"] = []
        out[f"{name}.lora_down.weight"] = [rank, shape[1], *tail]
        out[f"{name}.lora_up.weight"] = [shape[0], rank, *([1] * len(tail))]
    return out


def peft(modules: Table, prefix: str, rank: int = 16) -> Table:
    out: Table = {}
    for module, shape in modules.items():
        if not re.search(r"\.(to_q|to_k|to_v|to_out\.0|q_proj|k_proj|v_proj|out_proj)$", module):
            continue
        out[f"{prefix}.{module}.lora_A.weight"] = [rank, shape[1]]
        out[f"{prefix}.{module}.lora_B.weight"] = [shape[0], rank]
    return out


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], what: str) -> None:
    a, b = shapes(ours), shapes(theirs)
    if a != b:
        missing, extra = sorted(a.keys() - b.keys())[:5], sorted(b.keys() - a.keys())[:5]
        differ = [name for name in a.keys() & b.keys() if a[name] != b[name]][:5]
        raise SystemExit(
            f"{what}: diffusers' converter does not give the table back: {missing} {extra} {differ}"
        )


def write(name: str, table: Table) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(table, separators=(",", ":")).encode()
    # mtime=0: the same architectures give the same bytes
    (OUT / f"{name}.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{name}: {len(table)} tensors")


def main() -> None:
    ldm_unets: dict[str, Table] = {}
    unets: dict[str, Table] = {}
    for base, config in UNETS.items():
        state = on_meta(lambda config=config: UNet2DConditionModel(**config))
        original = unet_to_ldm(state, config)
        full = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None, **config}
        same(
            state,
            convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": v for k, v in original.items()}, full),
            f"unet {base}",
        )
        unets[base], ldm_unets[base] = shapes(state), shapes(original)
        write(f"unet.{base}.diffusers", unets[base])
        write(f"unet.{base}.ldm", ldm_unets[base])

    state = on_meta(lambda: AutoencoderKL(**VAE))
    original = vae_to_ldm(state)
    same(
        state,
        convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in original.items()}, VAE),
        "vae",
    )
    write("vae.diffusers", shapes(state))
    write("vae.ldm", shapes(original))
    flux = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    write("vae.flux.diffusers", shapes(on_meta(lambda: AutoencoderKL(**flux))))

    texts: dict[str, Table] = {}
    for name, size in {"clip-l": CLIP_L, "openclip-h": OPENCLIP_H, "openclip-g": OPENCLIP_G}.items():
        projection = size["hidden_size"]
        config = CLIPTextConfig(**size, projection_dim=projection)
        cls = CLIPTextModel if name != "openclip-g" else CLIPTextModelWithProjection
        state = on_meta(lambda cls=cls, config=config: cls(config))
        state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
        # transformers 5 dropped the level "text_model." from its modules; files on disk keep it
        state = {
            k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v
            for k, v in state.items()
        }
        texts[name] = shapes(state)
        write(f"text.{name}.transformers", texts[name])
        if name != "clip-l":
            original = clip_to_openclip(state, size["hidden_size"], projection)
            prove_openclip(state, original, config, size["hidden_size"])
            write(f"text.{name}.openclip", shapes(original))

    for base, text in {"sd-1": "clip-l", "sd-2": "openclip-h"}.items():
        linear = attention_modules(unets[base], ldm=False)
        write(f"lora.{base}.kohya", kohya(linear, "lora_unet") | kohya(text_modules(texts[text]), "lora_te"))
        write(f"lora.{base}.peft", peft(linear, "unet") | peft(text_modules(texts[text]), "text_encoder"))
    linear = attention_modules(ldm_unets["sdxl"], ldm=True)
    write(
        "lora.sdxl.kohya",
        kohya(linear, "lora_unet")
        | kohya(text_modules(texts["clip-l"]), "lora_te1")
        | kohya(text_modules(texts["openclip-g"]), "lora_te2"),
    )
    write("lora.sdxl.peft", peft(attention_modules(unets["sdxl"], ldm=False), "unet"))

    # negatives: real models of kinds that the probe must not take for its own
    llama = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    write("other.llama-8b", shapes(on_meta(lambda: LlamaForCausalLM(llama))))
    write("other.controlnet-sd-1", shapes(on_meta(lambda: ControlNetModel(cross_attention_dim=768))))


def prove_openclip(
    state: Mapping[str, torch.Tensor], original: Mapping[str, torch.Tensor], config: Any, hidden: int
) -> None:
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config)
    prefix = "cond_stage_model.model."
    checkpoint = {prefix + k: v for k, v in original.items()}
    back = convert_open_clip_checkpoint(model, checkpoint, prefix=prefix)
    back = {
        k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v
        for k, v in back.items()
    }
    # diffusers leaves SD-2's last layer out (it uses the one before): compare what it names
    for name, tensor in back.items():
        if name in state and tensor.shape != state[name].shape:
            raise SystemExit(f"openclip {hidden}: {name} {tuple(tensor.shape)} != {tuple(state[name].shape)}")
    unknown = back.keys() - state.keys() - {"text_projection.weight", "text_model.embeddings.position_ids"}
    if unknown or len(back) < 100:
        raise SystemExit(f"openclip {hidden}: unknown names {sorted(unknown)[:5]} of {len(back)}")


if __name__ == "__main__":
    main()
