"""Pins: components that an operator wants to stay, by the names that he knows them by.

A pin is on a name, and through it on the component that the name stood for when it was last asked for. It
loads nothing by itself: what is pinned and not there is kept once it comes. Like leases, pins live in memory,
and are kept for the loader that follows one that was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from modelkeep_loader.domain.components import ComponentRef, Plan


class Pins:
    """All pins of a tier.

    Args:
        on_change: Called with all that is pinned whenever that is something else.
    """

    def __init__(self, on_change: Callable[[Mapping[ComponentRef, str]], None] = lambda ids: None) -> None:
        self._on_change = on_change
        #: What is pinned → the identity that it had last.
        self._ids: dict[ComponentRef, str] = {}

    def restore(self, ids: Mapping[ComponentRef, str]) -> None:
        """Begin with what was pinned in an earlier loader, each with the identity that it had last."""
        self._ids |= ids
        self._on_change(self._ids)

    def add(self, plans: Iterable[Plan]) -> list[ComponentRef]:
        """Pin these. Those that were not pinned before."""
        new = [plan.ref for plan in plans if plan.ref not in self._ids]
        self._ids |= {plan.ref: plan.id for plan in plans}
        self._on_change(self._ids)
        return new

    def remove(self, refs: Collection[ComponentRef], *, exactly: bool = False) -> list[ComponentRef]:
        """Take back the pins on these names.

        Args:
            refs: Names. One without submodel means all of the model's, one with the precision "auto" those
                of every precision, with the weights "auto" those in every form, and without a memory format
                those in any.
            exactly: Each name means itself alone.

        Returns:
            What was pinned and is not any more.
        """
        found = [name for name in self._ids if any(_means(ref, name, exactly) for ref in refs)]
        for name in found:
            del self._ids[name]
        if found:
            self._on_change(self._ids)
        return found

    def follow(self, plan: Plan) -> str:
        """A name was asked for, and is this component now.

        Returns:
            Identity of the component that its pin was on until now; "" if it was on none or is on the same.
        """
        before = self._ids.get(plan.ref, plan.id)
        if before == plan.id:
            return ""
        self._ids[plan.ref] = plan.id
        self._on_change(self._ids)
        return before

    def keys_of(self, resident_id: str) -> frozenset[str]:
        """Keys of the models by whose names a component is pinned."""
        return frozenset(ref.key for ref, pinned in self._ids.items() if pinned == resident_id)


def _means(ref: ComponentRef, name: ComponentRef, exactly: bool) -> bool:
    if exactly or ref.key != name.key:
        return ref == name
    return (
        ref.submodel in ("", name.submodel)
        and ref.precision in ("auto", name.precision)
        and ref.weights in ("auto", "dequantised" if name.weights == "auto" else name.weights)
        and ref.memory_format in ("", name.memory_format)
        and ref.device in ("auto", name.device)
    )
