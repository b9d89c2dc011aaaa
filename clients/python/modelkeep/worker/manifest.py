"""What a lent file says about the module that its tensors belong to.

The memory that the loader lends is a safetensors file, and carries its own manifest under the key
``modelkeep`` of its ``__metadata__``, as JSON. Names, shapes, dtypes and offsets stand in the
safetensors header itself. The shape there is that of the bytes, row by row: of a tensor in channels last
(N, H, W, C), where the module has (N, C, H, W); :func:`channels_last_strides` are its strides there.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from modelkeep.exceptions import InvalidModelException

#: Key in ``__metadata__``.
METADATA_KEY: Final = "modelkeep"
#: Version of this JSON; another one is refused.
MANIFEST_VERSION: Final = 2


class Kind(enum.StrEnum):
    """What a component is to the worker that gets it."""

    MODULE = "module"
    #: Named tensors, and nothing else.
    STATE_DICT = "state_dict"
    #: What its library makes from a few files, each of which is one tensor of bytes under the file's name.
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """A parameter that is lent as it is stored.

    Attributes:
        scheme: How it is quantised; :mod:`modelkeep.worker.dequantise` knows the formulas.
        shape: Its shape once it is dequantised.
        dtype: Type that it is dequantised to, as safetensors names it.
        parts: Role → tensor in the file.
    """

    scheme: str
    shape: tuple[int, ...]
    dtype: str
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """How to put the tensors together.

    Attributes:
        library: "diffusers", "transformers", or a pipeline's folder in diffusers; "" for a state dict.
        class_name: Class of the module or object; "" for a state dict.
        config: The class's configuration, as its library writes it; of an object, what goes before its files.
        precision: "float32", "float16" or "bfloat16": what was asked for. A few tensors may be
            wider where the library keeps them in float32.
        aliases: Further name → name in the file, for tied weights.
        buffers: Names of tensors that are buffers; the others are parameters.
        transient_buffers: Those of `buffers` that are not part of the module's state dict.
        kind: Module, state dict or object.
        quantised: Parameters that several tensors of the file stand for.
        channels_last: Names of tensors of four dimensions that lie in the file with the second of them last.
    """

    library: str
    class_name: str
    config: Mapping[str, Any]
    precision: str
    aliases: Mapping[str, str]
    buffers: tuple[str, ...]
    transient_buffers: tuple[str, ...]
    kind: Kind = Kind.MODULE
    quantised: Mapping[str, QuantisedWeight] = field(default_factory=dict)
    channels_last: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The text that :meth:`from_json` reads."""
        return json.dumps(
            {
                "version": MANIFEST_VERSION,
                "library": self.library,
                "class_name": self.class_name,
                "config": dict(self.config),
                "precision": self.precision,
                "aliases": dict(self.aliases),
                "buffers": list(self.buffers),
                "transient_buffers": list(self.transient_buffers),
                "kind": self.kind,
                "quantised": {name: asdict(weight) for name, weight in self.quantised.items()},
                "channels_last": list(self.channels_last),
            },
            separators=(",", ":"),
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            InvalidModelException: It is no manifest, or of another version.
        """
        try:
            raw = json.loads(text)
            if raw["version"] != MANIFEST_VERSION:
                raise InvalidModelException(
                    f"The lent weights have a manifest of version {raw['version']}, "
                    f"and this worker reads version {MANIFEST_VERSION}: update modelkeep here."
                )
            return cls(
                library=str(raw["library"]),
                class_name=str(raw["class_name"]),
                config=dict(raw["config"]),
                precision=str(raw["precision"]),
                aliases=dict(raw["aliases"]),
                buffers=tuple(raw["buffers"]),
                transient_buffers=tuple(raw["transient_buffers"]),
                kind=Kind(raw["kind"]),
                quantised={
                    name: QuantisedWeight(
                        str(w["scheme"]), tuple(w["shape"]), str(w["dtype"]), dict(w["parts"])
                    )
                    for name, w in raw["quantised"].items()
                },
                channels_last=tuple(raw["channels_last"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelException(f"The lent weights have no readable manifest: {error}.") from None


def channels_last_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """How (N, C, H, W) stands in the header of a lent file in which it lies in channels last."""
    batch, channels, height, width = shape
    return batch, height, width, channels


def channels_last_strides(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Elements from one entry of (N, C, H, W) to the next in each dimension; C lies closest together."""
    _, channels, height, width = shape
    return height * width * channels, 1, width * channels, channels
