"""What is said of those who hold components, and of a model that cannot be dropped for them."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from modelkeep.exceptions import ModelInUseException, ModelPinnedException
from modelkeep_loader.domain.components import ComponentRef, Resident

#: Of the leases that hold something, as many are named.
MOST_NAMED: Final = 16


def some_leases(names: Collection[str], count: int) -> str:
    """Words for leases of which some are named."""
    shown = f"the lease{'s' if count > 1 else ''} {', '.join(names)}"
    return shown if count == len(names) else f"{shown} and {count - len(names)} more"


def model_name(components: Mapping[Resident, Collection[ComponentRef]]) -> str:
    """What people call the model whose components these are, by its names for them."""
    resident, refs = next(iter(components.items()))
    ref = min(refs, key=lambda one: one.submodel)
    return resident.refs[ref].removesuffix(f"/{ref.submodel}" if ref.submodel else "")


def in_use(key: str, name: str, holders: Collection[str]) -> ModelInUseException:
    """A model that leases hold; without any, it is being loaded."""
    named = heapq.nsmallest(MOST_NAMED, holders)
    what = f"It is held by {some_leases(named, len(holders))}" if holders else "It is being loaded"
    return ModelInUseException(
        f"The model {name!r} ({key}) is in use. {what}.",
        metadata={"key": key, "holders": ",".join(named)},
        remedy="" if holders else "Try again when it is loaded.",
    )


def pinned_down(key: str, name: str, names: Sequence[str]) -> ModelPinnedException:
    """A model of which components are pinned."""
    some = names[:MOST_NAMED]
    return ModelPinnedException(
        f"The model {name!r} ({key}) is pinned: {', '.join(some)}.",
        metadata={"key": key, "components": ",".join(some)},
    )
