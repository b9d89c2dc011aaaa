"""From a component's tensors in an original checkpoint to those of its class, by diffusers' own conversion.

What is taken is renamed, split and turned, and not copied: the results are views of the mapped file, but for
the few tensors that are put together anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from modelkeep_convert import vaeconfig
from modelkeep_convert.checkpoints.encoders import SD2_LAYERS
from modelkeep_convert.checkpoints.parts import DENOISER
from modelkeep_convert.spare import is_training, refuse_stray

State = dict[str, torch.Tensor]

_OPENCLIP_PREFIX: Final = "cond_stage_model.model."
#: Of OpenCLIP's text encoders: what weighs text against images, and a mask that every one makes itself.
_OPENCLIP_SPARE: Final = re.compile(r"logit_scale|attn_mask")


class _WithoutCopies(TorchFunctionMode):
    """Where a conversion copies what it could as well look at, it gets a view."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.cat and len(args[0]) == 1:
            return args[0][0]
        if func in (torch.Tensor.clone, torch.Tensor.contiguous):
            return args[0]
        return func(*args, **(kwargs or {}))


def convert(
    layout: str, class_name: str, config: Mapping[str, Any], checkpoint: Mapping[str, torch.Tensor]
) -> State:
    """Tensors under the names of the class.

    Args:
        layout: As :class:`modelkeep_convert.checkpoints.parts.Part` has it.
        class_name: For messages, and for what may stay behind.
        config: The configuration that the class is built by.
        checkpoint: The component's tensors, without prefix; is not changed.

    Raises:
        InvalidModelException: A tensor is left over.
    """
    with torch.no_grad(), _WithoutCopies():
        return _CONVERSIONS[layout](class_name, config, dict(checkpoint))


def _unet(class_name: str, config: Mapping[str, Any], checkpoint: State) -> State:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    state = convert_ldm_unet_checkpoint(
        {DENOISER + name: tensor for name, tensor in checkpoint.items()}, config
    )
    return _all_taken(class_name, checkpoint, state)


def _vae(class_name: str, config: Mapping[str, Any], checkpoint: State) -> State:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    if vaeconfig.is_diffusers_layout({name: tuple(t.shape) for name, t in checkpoint.items()}):
        return checkpoint
    wanted = {name: tensor for name, tensor in checkpoint.items() if not is_training(name)}
    return _all_taken(class_name, wanted, convert_ldm_vae_checkpoint(wanted, config))


def _flux(class_name: str, config: Mapping[str, Any], checkpoint: State) -> State:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    # It takes what it uses out of the dict that it is given.
    state: State = convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    refuse_stray(class_name, checkpoint)
    return state


def _sd3(class_name: str, config: Mapping[str, Any], checkpoint: State) -> State:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    state: State = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    refuse_stray(class_name, checkpoint)
    return state


def _openclip(class_name: str, config: Mapping[str, Any], checkpoint: State) -> State:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    kept = {name: tensor for name, tensor in checkpoint.items() if not _OPENCLIP_SPARE.fullmatch(name)}
    if config["num_hidden_layers"] == SD2_LAYERS - 1:
        # SD 2 has no use for what lies behind the layer that it takes.
        last = f"transformer.resblocks.{SD2_LAYERS - 1}."
        kept = {name: t for name, t in kept.items() if not name.startswith(last)}
    if class_name == "CLIPTextModel":
        kept.pop("text_projection", None)
    # Not under the prefix of SD 2, where it leaves out more than is meant here.
    prefix = f"_{_OPENCLIP_PREFIX}"
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    state = convert_open_clip_checkpoint(
        model, {prefix + name: tensor for name, tensor in kept.items()}, prefix=prefix
    )
    return _all_taken(class_name, kept, state)


def _as_named(class_name: str, config: Mapping[str, Any], checkpoint: State) -> State:
    if class_name == "CLIPTextModelWithProjection" and "text_projection.weight" not in checkpoint:
        # The encoder of SD 3 that came without: its output is taken as it is.
        checkpoint["text_projection.weight"] = torch.eye(config["hidden_size"])
    return checkpoint


_CONVERSIONS: Final[Mapping[str, Callable[[str, Mapping[str, Any], State], State]]] = {
    "unet": _unet,
    "vae": _vae,
    "flux": _flux,
    "sd3": _sd3,
    "openclip": _openclip,
    "clip": _as_named,
    "t5": _as_named,
}


def _all_taken(class_name: str, checkpoint: Mapping[str, torch.Tensor], state: State) -> State:
    """Refuse what the conversion passed over: it says nothing of names that it does not know.

    What it takes are views, so that their bytes lie within those of a tensor of the file.
    """
    taken = sorted((tensor.data_ptr(), tensor.nbytes) for tensor in state.values())
    left = []
    places = sorted((tensor.data_ptr(), tensor.nbytes, name) for name, tensor in checkpoint.items())
    at = 0
    for begin, size, name in places:
        covered = 0
        while at < len(taken) and taken[at][0] < begin + size:
            covered += taken[at][1] if taken[at][0] >= begin else 0
            at += 1
        if covered < size:
            left.append(name)
    refuse_stray(class_name, left)
    return state
