"""``modelkeep cache capacity``: budgets and what is in use, once or for as long as one looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkeep.cli import _terminal, _watching
from modelkeep.cli._options import chosen
from modelkeep.cli._output import as_json, emit, facts_lines, print_data, print_facts, short, size
from modelkeep.cli._places import connect

if TYPE_CHECKING:
    from modelkeep.loader.v1 import capacity_pb2, resident_pb2


def capacity() -> None:
    """Show budgets, and what is in use."""
    with connect() as client:
        if chosen().watch:
            screen, shown = _watching.Screen(), None
            for state in _watching.of_frames(client.model_loader.watch_capacity()):
                for answer in state.values():
                    # Unchanged, it is news only where it writes over what was said meanwhile.
                    if answer != shown or _terminal.stdout().moves:
                        _show_again(answer, screen)
                    shown = answer
            return
        answer = client.model_loader.capacity()
    if not emit(lambda: as_json(answer)):
        print_facts(capacity_facts(answer))


def _show_again(answer: capacity_pb2.GetCapacityResponse, screen: _watching.Screen) -> None:
    if chosen().as_data:
        print_data(as_json(answer), lines=True)
    elif _terminal.stdout().moves:
        screen.write(facts_lines(capacity_facts(answer)))
    else:
        print("\t".join(f"{name}: {value}" for name, value in capacity_facts(answer)), flush=True)


def capacity_facts(answer: capacity_pb2.GetCapacityResponse) -> list[tuple[str, object]]:
    """Budgets and what is in use, for people."""
    from modelkeep.loader.v1 import resident_pb2

    def name(tier: resident_pb2.TierCapacity) -> str:
        return f"{short(resident_pb2.Tier.Name(tier.tier), 'TIER_')} {tier.device}".strip()

    tiers: list[tuple[str, object]] = [
        (
            name(tier),
            f"{size(tier.used_bytes)} of {size(tier.budget_bytes)} in use, "
            f"{size(tier.leased_bytes)} leased, {size(tier.pinned_bytes)} pinned, "
            f"{size(tier.reserved_bytes)} reserved, {size(tier.zombie_bytes)} evicted and still mapped",
        )
        for tier in answer.tiers
    ]
    return [
        *tiers,
        *(
            (
                f"{name(tier)} since the start",
                f"{tier.hit_count} found, {tier.miss_count} not, {tier.eviction_count} dropped, "
                f"{size(tier.high_watermark_bytes)} at most",
            )
            for tier in answer.tiers
        ),
        ("devices", ", ".join(answer.devices)),
        ("leases", f"{answer.lease_count}, {answer.queued_count} waiting"),
        *([("out of service", "drained: no new leases")] if answer.draining else []),
    ]
