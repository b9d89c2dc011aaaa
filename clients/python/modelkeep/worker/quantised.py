"""Layers that keep their weights as they are lent, quantised, and dequantise them whenever they are used.

A layer whose weight is quantised stays what it is, a Linear or a Conv2d: only its ``weight`` is computed from
the lent bytes each time that somebody asks for it, by the formulas of :mod:`modelkeep.worker.dequantise`. So
its outputs are those of the same layer with dequantised weights, to the bit, for more time and less memory.
What writes into such a weight, as merging a LoRA does, writes into a copy that is gone a moment later.

The bytes are parameters of type uint8, whose names begin as the weight's: a cast of the module leaves them
alone, and changes only what the weights are computed in.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import torch

from modelkeep.worker.dequantise import data_bytes, dequantise
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep.worker.manifest import QuantisedWeight

#: Attribute of a layer: leaf → how it is computed.
_RECIPES: Final = "_modelkeep_quantised"


class _Recipe:
    """How one weight comes from its parts, which are parameters of the layer."""

    def __init__(self, leaf: str, weight: QuantisedWeight, parts: Mapping[str, torch.Tensor]) -> None:
        self.scheme = weight.scheme
        self.shape = weight.shape
        self.like = f"{leaf}__computed_in"
        self.parts = {
            role: (f"{leaf}__{role}", tensor.dtype, tuple(tensor.shape)) for role, tensor in parts.items()
        }

    def compute(self, layer: torch.nn.Module) -> torch.Tensor:
        found: dict[str, torch.Tensor] = {}
        for role, (name, dtype, shape) in self.parts.items():
            stored = layer._parameters[name]
            assert stored is not None
            found[role] = stored.detach().view(dtype).reshape(shape)
        like = layer._buffers[self.like]
        assert like is not None
        return dequantise(self.scheme, found, self.shape).to(like.dtype)


def install(
    weights: Mapping[str, QuantisedWeight],
    aliases: Mapping[str, str],
    owners: Mapping[str, torch.nn.Module],
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, int]:
    """Give layers their quantised weights.

    Args:
        weights: By the names that the weights would have as parameters.
        aliases: Further name → name, for tied weights, which stay tied.
        owners: The module's parts by their paths.
        tensors: The lent tensors.

    Returns:
        Name of each new parameter → its address.

    Raises:
        KeyError: The module has no such part or parameter; the error names it.
    """
    addresses: dict[str, int] = {}
    tied: dict[str, list[str]] = {}
    for alias, name in aliases.items():
        tied.setdefault(name, []).append(alias)
    for name, weight in weights.items():
        parts = {role: tensors[part] for role, part in weight.parts.items()}
        kept: dict[str, torch.nn.Parameter] = {}
        for place in (name, *tied.get(name, ())):
            path, _, leaf = place.rpartition(".")
            layer = owners.get(path)
            if layer is None or leaf not in layer._parameters:
                raise KeyError(place)
            recipe = _Recipe(leaf, weight, parts)
            del layer._parameters[leaf]
            for role, tensor in parts.items():
                if role not in kept:
                    kept[role] = torch.nn.Parameter(data_bytes(tensor), requires_grad=False)
                layer._parameters[recipe.parts[role][0]] = kept[role]
                addresses[f"{path}.{recipe.parts[role][0]}".lstrip(".")] = kept[role].data_ptr()
            there = next(iter(parts.values())).device
            layer.register_buffer(
                recipe.like, torch.empty(0, dtype=TORCH_DTYPES[weight.dtype], device=there), persistent=False
            )
            vars(layer).setdefault(_RECIPES, {})[leaf] = recipe
            plain: Any = type(layer)
            layer.__class__ = _computing(plain, leaf)
    return addresses


@functools.cache
def _computing(cls: Any, leaf: str) -> type[torch.nn.Module]:
    """The class with one of its parameters computed."""

    def compute(layer: Any) -> torch.Tensor:
        recipe: _Recipe = vars(layer)[_RECIPES][leaf]
        return recipe.compute(layer)

    # The name stays, since libraries and people tell layers by it.
    return type(cls.__name__, (cls,), {leaf: property(compute), "__module__": cls.__module__})
