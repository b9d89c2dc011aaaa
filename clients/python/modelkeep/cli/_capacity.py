"""``modelkeep cache capacity`` and ``estimate``: what is in use, and what something would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from modelkeep.cli import _terminal, _watching
from modelkeep.cli._naming import Model
from modelkeep.cli._options import chosen
from modelkeep.cli._output import as_json, counted, emit, facts_lines, print_data, print_facts, short, size
from modelkeep.cli._parts import (
    Device,
    MaxVramBytes,
    MemoryFormat,
    Precision,
    Submodels,
    Weights,
    find_parts,
    held_as,
)
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible

if TYPE_CHECKING:
    from modelkeep.dtypes import WeightForm
    from modelkeep.loader.v1 import capacity_pb2, estimate_pb2, resident_pb2


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


def estimate(
    model: Model,
    submodel: Submodels = None,
    precision: Precision = "auto",
    weights: Weights = "auto",
    memory_format: MemoryFormat = "contiguous",
    device: Device = "auto",
    activation_bytes: Annotated[int, typer.Option(help="Bytes to reserve besides.", min=0)] = 0,
    max_vram_bytes: MaxVramBytes = 0,
) -> None:
    """Tell what loading a model would take, and what would have to go for it; nothing is loaded."""
    with connect() as client:
        key, parts = find_parts(client, model, submodel)
        answer = client.model_loader.estimate(
            key,
            parts,
            precision=precision.lower(),
            weights=cast("WeightForm", weights.lower()),
            memory_format=memory_format.lower(),
            device=device.lower(),
            activation_bytes=activation_bytes,
            max_vram_bytes=max_vram_bytes,
        )
    if not emit(lambda: as_json(answer)):
        print_facts(_estimate_facts(answer))


def _estimate_facts(answer: estimate_pb2.EstimateLoadResponse) -> list[tuple[str, object]]:
    """What loading would take, for people."""
    from modelkeep.loader.v1 import resident_pb2

    def fact(one: estimate_pb2.ComponentEstimate) -> tuple[str, object]:
        about = f"{size(one.size_bytes)} as {held_as(one.precision, one.weights) or 'it is'}"
        if one.vram_bytes:
            about += f" on {one.device}"
        if one.HasField("error"):
            return one.display_name, f"{about}, failed: {one.error.message}"
        state = short(resident_pb2.ResidentState.Name(one.state), "RESIDENT_STATE_")
        return one.display_name, f"{about}, {state or f'about {one.load_seconds:.1f} s to load'}"

    if answer.fits_now:
        room = (
            "yes" if not answer.evicted_count else f"yes, once {counted(answer.evicted_count, 'other')} went"
        )
    elif answer.fits_at_all:
        where = [("RAM", answer.bytes_short), *((one.device, one.bytes_short) for one in answer.devices)]
        short_of = ", ".join(f"{size(missing)} of {name}" for name, missing in where if missing)
        room = f"not now: {short_of} are in use by others"
    else:
        room = "no: it is larger than the whole budget"
    return [
        *map(fact, answer.components),
        ("needs", f"{size(answer.needed_bytes)} more, about {answer.load_seconds:.1f} s"),
        *((f"needs of {one.device}", f"{size(one.needed_bytes)} more") for one in answer.devices),
        ("fits", room),
        ("would go", "\n".join(f"{one.display_name}, {size(one.size_bytes)}" for one in answer.evicted)),
    ]


def _accelerator(one: capacity_pb2.Accelerator) -> str:
    if one.refusal:
        return f"cannot be used: {visible(one.refusal)}"
    return f"{visible(one.product)}, {size(one.free_bytes)} of {size(one.total_bytes)} free"


def _drained(answer: capacity_pb2.GetCapacityResponse) -> str:
    why = f" ({visible(answer.drain_reason)})" if answer.drain_reason else ""
    return f"drained: no new leases{why}"


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
        *((one.name, _accelerator(one)) for one in answer.accelerators),
        *(
            (
                f"came to {one.name}",
                f"{size(one.from_files_bytes)} from files, {size(one.from_ram_bytes)} from RAM",
            )
            for one in answer.accelerators
            if not one.refusal
        ),
        ("leases", f"{answer.lease_count}, {answer.queued_count} waiting"),
        *([("out of service", _drained(answer))] if answer.draining else []),
    ]
