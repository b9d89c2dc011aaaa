"""The families of models: one table, data only.

The installer tells by it what a model is; of its settings the loader makes what a single file leaves out.
A new family is an entry here, and code only where none of the rules fits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from .family import Component, Family
from .flux import FLUX
from .stable_diffusion import SD_1, SD_2, SD_3, SDXL, SDXL_REFINER, VARIANT_BY_CHANNELS

K = TypeVar("K")

#: All of them. Where several fit, the one that comes first is the likelier.
FAMILIES: Final = (SD_1, SD_2, SDXL, SDXL_REFINER, FLUX, SD_3)
BY_BASE: Final[Mapping[str, Family]] = {family.base: family for family in FAMILIES}


def bases_by(keys: Callable[[Family], Iterable[K]]) -> Mapping[K, tuple[str, ...]]:
    """The bases that share a value, by that value.

    Args:
        keys: The values of a family; none for a family that is to be left out.
    """
    found: dict[K, tuple[str, ...]] = {}
    for family in FAMILIES:
        for key in keys(family):
            found[key] = (*found.get(key, ()), family.base)
    return found


__all__ = ["BY_BASE", "FAMILIES", "VARIANT_BY_CHANNELS", "Component", "Family", "bases_by"]
