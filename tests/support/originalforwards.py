"""What modules of original checkpoints make of fixed inputs, and diffusers' own reading of such files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file


def output_of(module: Any) -> str:
    """SHA-256 of what a module makes of fixed inputs."""
    with torch.no_grad():
        result = _forward(module, next(module.parameters()).dtype)
    return hashlib.sha256(result.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _forward(module: Any, dtype: torch.dtype) -> torch.Tensor:
    def spread(*shape: int) -> torch.Tensor:
        count = int(torch.tensor(shape).prod())
        return torch.linspace(-1, 1, count).reshape(shape).to(dtype)

    config = module.config
    name = type(module).__name__
    if name == "UNet2DConditionModel":
        more: dict[str, Any] = {}
        if config.addition_embed_type:
            taken = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            conditions = {"text_embeds": spread(1, taken), "time_ids": torch.arange(6).to(dtype)[None]}
            more["added_cond_kwargs"] = conditions
        sample = spread(1, config.in_channels, 8, 8)
        result = module(sample, 7, spread(1, 5, config.cross_attention_dim), **more).sample
    elif name == "SD3Transformer2DModel":
        result = module(
            spread(1, config.in_channels, 8, 8),
            spread(1, 5, config.joint_attention_dim),
            spread(1, config.pooled_projection_dim),
            torch.tensor([7]),
        ).sample
    elif name == "AutoencoderKL":
        result = module.decode(spread(1, config.latent_channels, 4, 4)).sample
    elif name == "T5EncoderModel":
        result = module(torch.arange(1, 9)[None]).last_hidden_state
    else:
        result = module(torch.arange(3, 12)[None])[0]
    return result  # type: ignore[no-any-return]  # the libraries have no types


def read_by_diffusers(file: str, folder: str, submodel: str, class_name: str, precision: str) -> Any:
    """A component of a whole checkpoint as diffusers reads it, told the configuration.

    Args:
        file: The checkpoint.
        folder: Has a folder with a ``config.json`` for each submodel, and the weights of a T5.
        submodel: Which of them.
        class_name: Of diffusers or transformers.
        precision: As a dtype of torch is called.
    """
    dtype = getattr(torch, precision)
    if (cls := getattr(diffusers, class_name, None)) is not None:
        module = cls.from_single_file(
            file, config=folder, subfolder=submodel, torch_dtype=dtype, local_files_only=True
        )
        return _aligned(module.eval())
    if class_name == "T5EncoderModel":
        # diffusers' own function casts all of it before it widens again what is kept in float32.
        return _aligned(
            transformers.T5EncoderModel.from_pretrained(Path(folder) / submodel, dtype=dtype).eval()
        )
    module = single_file_utils.create_diffusers_clip_model_from_ldm(
        getattr(transformers, class_name),
        load_file(Path(file)),
        subfolder=submodel,
        config=folder,
        torch_dtype=dtype,
        local_files_only=True,
    )
    return _aligned(module.eval())


def _aligned(module: Any) -> Any:
    """The module with its tensors in memory of their own.

    They are views of the file, at whatever places it has them, and kernels are chosen by that: of the same
    weights the last bits of an output depend on where they lie.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
    return module
