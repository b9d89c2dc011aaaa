"""What is lent in another form than dequantised: the tensors of the files as they are, or cast to float8."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch

from modelkeep.dtypes import DTYPES
from modelkeep.headers import Tensor
from modelkeep.quantised import CAST, FLOAT8
from modelkeep.worker.lentfile import TORCH_DTYPES
from modelkeep.worker.manifest import Manifest, QuantisedWeight
from modelkeep_convert.quantised.sources import Quantised, Source, bytes_of

#: What a wide weight is cast to: diffusers' own choice for storage.
_STORAGE: Final = torch.float8_e4m3fn
#: Layers whose parameters diffusers stores so.
_LAYERS: Final = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)


class Form:
    """Which weights are lent otherwise, and how: their tensors in the lent file, and the bytes of those.

    Args:
        tensors: What would be lent, dequantised.
        read: Yields the bytes of each.
    """

    def __init__(self, tensors: list[Tensor], read: Callable[[Tensor], memoryview]) -> None:
        self.weights: dict[str, QuantisedWeight] = {}
        self.tensors: list[Tensor] = []
        self._plain = read
        self._parts: dict[str, Callable[[], torch.Tensor]] = {}
        self._wide = tensors

    def as_stored(self, sources: Mapping[str, Source], manifest: Manifest) -> None:
        """Quantised weights as the files have them, where the module has a parameter of the same name."""
        names = {name: name for name in sources}
        names |= {target: name for name, target in manifest.aliases.items() if name in sources}
        for tensor in self._wide:
            source = sources.get(names.get(tensor.name, ""))
            is_weight = DTYPES[tensor.dtype].is_float and tensor.name not in manifest.buffers
            if is_weight and isinstance(source, Quantised) and tuple(source.shape()) == tensor.shape:
                self._take(tensor, source.scheme, source.parts)
            elif is_weight and source is not None and source.code() in FLOAT8:
                self._take(tensor, CAST, {"data": source})
            else:
                self.tensors.append(tensor)

    def as_float8(self, module: torch.nn.Module) -> None:
        """Cast to float8 what diffusers' layerwise casting would."""
        cast = set(_castable(module))
        for tensor in self._wide:
            if tensor.name in cast and DTYPES[tensor.dtype].is_float:
                self._take(tensor, CAST, {"data": _Cast(tensor, self._plain)})
            else:
                self.tensors.append(tensor)

    def _take(self, tensor: Tensor, scheme: str, parts: Mapping[str, Source]) -> None:
        names: dict[str, str] = {}
        for role, source in parts.items():
            names[role] = f"{tensor.name}__{role}"
            self.tensors.append(Tensor(names[role], source.code(), tuple(source.shape())))
            self._parts[names[role]] = source.read
        self.weights[tensor.name] = QuantisedWeight(scheme, tensor.shape, tensor.dtype, names)

    def read(self, tensor: Tensor) -> memoryview:
        """The bytes of a tensor."""
        if (part := self._parts.get(tensor.name)) is not None:
            return bytes_of(part())
        return self._plain(tensor)


class _Cast:
    """A tensor that would be lent, in float8."""

    def __init__(self, tensor: Tensor, read: Callable[[Tensor], memoryview]) -> None:
        self._tensor = tensor
        self._read = read

    def shape(self) -> list[int]:
        return list(self._tensor.shape)

    def code(self) -> str:
        return "F8_E4M3"

    def read(self) -> torch.Tensor:
        dtype = TORCH_DTYPES[self._tensor.dtype]
        data = self._read(self._tensor)
        flat = torch.frombuffer(data, dtype=dtype) if data.nbytes else torch.empty(0, dtype=dtype)
        return flat.reshape(self._tensor.shape).to(_STORAGE)


def _castable(module: torch.nn.Module) -> Iterator[str]:
    """Names of the parameters that diffusers casts to float8 by default, of any module."""
    from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN

    skipped = [*DEFAULT_SKIP_MODULES_PATTERN]
    for more in ("_keep_in_fp32_modules", "_skip_layerwise_casting_patterns"):
        skipped += getattr(module, more, None) or ()

    def walk(part: Any, path: str) -> Iterator[str]:
        if any(re.search(pattern, path) for pattern in skipped):
            return
        if isinstance(part, _LAYERS):
            yield from (f"{path}.{name}" for name, _ in part.named_parameters(recurse=False))
            return
        for name, child in part.named_children():
            yield from walk(child, f"{path}.{name}" if path else name)

    return walk(module, "")
