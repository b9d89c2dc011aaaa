"""What a service asks its helper process for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from modelkeep.worker.manifest import Kind

#: Files of one request: `frames.MAX_DESCRIPTORS`, which domain code that counts files could not import.
MAX_FILES: Final = 253
#: Of what a device takes straight from its files, bytes that stand in none of them as they are lent, at most.
_MOST_MADE_BYTES: Final = 16 << 20
_MOST_MADE_PART: Final = 1 / 8


def is_in_files(made_bytes: int, size_bytes: int) -> bool:
    """Whether a device may take a component from its files: most of its bytes lie there as they are lent.

    Args:
        made_bytes: Those that do not.
        size_bytes: All of them.
    """
    return made_bytes <= min(_MOST_MADE_BYTES, size_bytes * _MOST_MADE_PART)


@dataclass(frozen=True, slots=True)
class Build:
    """What to build.

    Attributes:
        library, class_name: The module class; must be on the list of those allowed.
        config: The class's configuration; None for a single-file VAE, whose configuration follows
            from its shapes and `base`.
        precision: "float32", "float16" or "bfloat16".
        files: Names of the weight files, in the order of their descriptors.
        base: The model's family; for a single-file VAE.
        scaling_factor: What the record says, or None; for a single-file VAE.
        overrides: Entries of the configuration that the record changes.
        name: What the memory is called in /proc; for people.
        kind: A module, or a state dict: the files' tensors and nothing else.
        cast: Whether floating-point tensors are brought to `precision`; otherwise each stays what it is.
        weights: Their form: "dequantised", "stored" or "float8" (:mod:`modelkeep_convert.quantised.stored`).
        layout, prefix: Of a component of a main model in one file: how its tensors are named, and what their
            names begin with (:class:`modelkeep_convert.checkpoints.parts.Part`).
        memory_format: "contiguous", or "channels_last" (:mod:`modelkeep_convert.memoryformat`).
    """

    library: str
    class_name: str
    config: dict[str, Any] | None
    precision: str
    files: list[str]
    base: str
    scaling_factor: float | None
    overrides: dict[str, Any]
    name: str
    kind: Kind = Kind.MODULE
    cast: bool = True
    weights: str = "dequantised"
    layout: str = ""
    prefix: str = ""
    memory_format: str = "contiguous"
