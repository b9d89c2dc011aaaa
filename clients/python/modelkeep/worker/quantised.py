"""Layers that keep their weights as they are lent, quantised, and dequantise them whenever they are used.

A layer whose weight is quantised stays what it is, a Linear or a Conv2d: only its ``weight`` is computed from
the lent bytes each time that somebody asks for it, by the formulas of :mod:`modelkeep.worker.dequantise`. So
its outputs are those of the same layer with dequantised weights, to the bit, for more time and less memory.
What writes into such a weight, as fusing a LoRA does, would write into a copy that is gone a moment later,
and is refused.

The bytes are parameters of type uint8, whose names begin as the weight's: a cast of the module leaves them
alone, and changes only what the weights are computed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import torch

from modelkeep.worker.dequantise import data_bytes, dequantise
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep.worker.manifest import QuantisedWeight

#: Attribute of a layer: leaf → how it is computed.
_RECIPES: Final = "_modelkeep_quantised"


class Computed(torch.Tensor):
    """A weight as it was computed for whoever asked: like any tensor, but nothing can be written into it."""

    # What is computed from it is a plain tensor, as it is of a parameter.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's own

    @property
    def data(self) -> torch.Tensor:
        """The numbers."""
        return self.detach().as_subclass(Computed)

    @data.setter
    def data(self, value: torch.Tensor) -> NoReturn:
        raise RuntimeError(_LOST)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.clone()


#: Said to whoever writes into a weight that is computed each time.
_LOST: Final = (
    "This weight is lent as it is stored, and computed each time that it is read: what is written into it "
    'would be lost. Put adapters beside it, unfused, or get the model with weights="dequantised".'
)


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(self: torch.Tensor, *arguments: Any, **named: Any) -> NoReturn:
        raise RuntimeError(_LOST)

    refuse.__name__ = name
    return refuse


#: Methods of tensors that end in _ and write nothing into their numbers.
_HARMLESS: Final = {"requires_grad_", "detach_", "rename_", "share_memory_"}

for _name in dir(torch.Tensor):
    _writes = _name.endswith("_") and not _name.endswith("__") and not _name.startswith("_")
    if (_writes and _name not in _HARMLESS) or _name in (
        "__setitem__",
        *(f"__i{operation}__" for operation in ("add", "sub", "mul", "truediv", "and", "or", "xor", "pow")),
    ):
        setattr(Computed, _name, _refusal(_name))


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
        computed = dequantise(self.scheme, found, self.shape).to(like.dtype)
        # A compiler follows plain tensors only, and what it compiles does not write into weights.
        return computed if torch.compiler.is_compiling() else computed.as_subclass(Computed)


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
