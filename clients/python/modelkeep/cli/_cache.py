"""``modelkeep load`` and ``modelkeep cache``: the loader's memory."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from modelkeep.cli import _capacity, _complete, _leases, _pins, _table, _watching
from modelkeep.cli._asking import DryRun, Yes, agreed
from modelkeep.cli._leases import component_name
from modelkeep.cli._listing import Column, Listing, size_column, time_column
from modelkeep.cli._naming import Model, OneModel, find_key, find_part
from modelkeep.cli._options import chosen
from modelkeep.cli._output import as_json, counted, emit, print_data, say, short, size, when
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
from modelkeep.cli._select import selected
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, WATCHED, group, lists, verb
from modelkeep.cli._words import members
from modelkeep.taxonomy import SubModelType

if TYPE_CHECKING:
    from modelkeep.dtypes import WeightForm
    from modelkeep.loader.v1 import load_pb2, resident_pb2

_group = group("Look into the loader's memory; without a command, show the capacity and what is there.")
_NOTHING: Final = "Nothing is in memory; `modelkeep load MODEL` brings something."


class CacheTier(StrEnum):
    """Where components, or copies of their files, are."""

    RAM = "ram"
    DISK = "disk"
    VRAM = "vram"


TierOption = Annotated[
    CacheTier,
    typer.Option(
        "--tier", help="ram, disk (copies of the model's files) or vram (accelerators).", case_sensitive=False
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        takes=DATA,
        examples=("modelkeep load tiny-sd/vae", "modelkeep load tiny-sd --submodel vae --precision bfloat16"),
    )(load)
    app.add_typer(_group, name="cache")
    lists(_group, cache)
    verb(
        _group,
        takes=LIST,
        lists=residents_listing(),
        examples=("modelkeep cache residents -w", "modelkeep cache residents tiny-sd --sort size -r"),
    )(residents)
    _leases.add_to(_group)
    verb(
        _group,
        takes=WATCHED,
        examples=("modelkeep cache capacity -w", "modelkeep cache capacity --json"),
    )(_capacity.capacity)
    _pins.add_to(_group)
    verb(_group, takes=DATA, examples=("modelkeep cache estimate tiny-sd/unet --precision float16",))(
        _capacity.estimate
    )
    verb(
        _group,
        takes=DATA,
        examples=("modelkeep cache evict tiny-sd/vae --dry-run", "modelkeep cache evict --all"),
    )(evict)


def residents_listing() -> Listing[resident_pb2.Resident]:
    """How components in memory are listed."""
    return Listing(
        "component",
        "residents",
        (
            Column("COMPONENT", _name, cut="end"),
            Column("STATE", _state, drop=2),
            Column("TIER", _where, drop=3),
            Column("PRECISION", _precision, drop=3),
            size_column(lambda r: r.size_bytes, drop=1),
            Column("LEASES", lambda r: r.lease_count, right=True, drop=2, order=lambda r: r.lease_count),
            Column("CLASS", lambda r: r.class_name, drop=4),
            time_column("USED", lambda r: r.last_use_time.ToNanoseconds() / 1e9, drop=5),
            Column("DEVICE", lambda r: r.device, wide=True),
            Column("COMPUTED IN", _computed_in, wide=True),
            Column("MEMORY FORMAT", _memory_format, wide=True),
            Column("KEPT UNTIL", _kept, wide=True),
            Column("KEYS", lambda r: " ".join(dict.fromkeys(map(component_name, r.components))), wide=True),
            Column("ID", lambda r: r.id, wide=True),
        ),
        key=lambda r: r.id,
        name=_name,
        data=as_json,
        filters={
            "model": lambda r: (_name(r).rpartition("/")[0] or _name(r), *(c.key for c in r.components)),
            "component": lambda r: (_name(r),),
            "state": lambda r: (_state(r),),
            "tier": lambda r: (_tier(r),),
            "precision": lambda r: (_precision(r), _computed_in(r)),
            "device": lambda r: (r.device,),
            "memory_format": lambda r: (_memory_format(r),),
            "class": lambda r: (r.class_name,),
        },
        totals=lambda rows: size(sum(r.size_bytes for r in rows)),
    )


def load(
    model: Model,
    submodel: Submodels = None,
    precision: Precision = "auto",
    keep_alive: Annotated[
        float | None,
        typer.Option(help="Seconds that it is kept while nobody uses it; -1: for as long as there is room."),
    ] = None,
    weights: Weights = "auto",
    memory_format: MemoryFormat = "contiguous",
    device: Device = "auto",
    max_vram_bytes: MaxVramBytes = 0,
    tier: Annotated[
        CacheTier | None,
        typer.Option(
            help="ram, whatever the device; disk: copies of the model's files alone; vram: or fail.",
            case_sensitive=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring a model into the loader's memory, so that workers have it at once."""
    from modelkeep.cli._bar import Bar
    from modelkeep.cli._follow import standing
    from modelkeep.loader.v1 import resident_pb2

    with connect() as client, Bar().shown() as bar:

        def show(progress: load_pb2.LoadProgress) -> None:
            stage = short(resident_pb2.ResidentState.Name(progress.stage), "RESIDENT_STATE_")
            bar.update(standing(f"{component_name(progress.component, model)}: {stage}", progress.progress))

        key, parts = find_parts(client, model, submodel)
        loaded = client.model_loader.load(
            key,
            parts,
            precision=precision.lower(),
            weights=cast("WeightForm", weights.lower()),
            memory_format=memory_format.lower(),
            keep_alive=keep_alive,
            device=device.lower(),
            max_vram_bytes=max_vram_bytes,
            tier=tier.value if tier else None,
            on_progress=show,
        )
    if emit(lambda: {"residents": [as_json(resident) for resident in loaded]}):
        return
    for resident in loaded:
        what = ", ".join(filter(None, (visible(resident.class_name), _precision(resident))))
        where = "on the disk tier" if tier is CacheTier.DISK else _place(resident)
        say(
            f"{visible(_name(resident))}: {what or 'a file'}, {size(resident.size_bytes)} {where} "
            f"({resident.load_seconds:.2f} s)"
        )


def cache(ctx: typer.Context) -> None:
    """Look into the loader's memory; without a command, show the capacity and what is there."""
    if ctx.invoked_subcommand is not None:
        return
    if chosen().as_data and not chosen().watch:
        with connect() as client:
            held = selected(residents_listing(), client.model_loader.residents())
            print_data(
                {"capacity": as_json(client.model_loader.capacity()), "residents": list(map(as_json, held))}
            )
        return
    _capacity.capacity()
    residents()


def residents(model: OneModel = None) -> None:
    """List the components in memory."""
    with connect() as client:
        key = find_key(client, model) if model else None
        if chosen().watch:
            states = _watching.of_frames(client.model_loader.watch(key))
            _watching.watch(residents_listing(), states, empty=_NOTHING)
        found = client.model_loader.residents(key)
    _table.show(residents_listing(), found, empty=_NOTHING)


def evict(
    model: OneModel = None,
    submodel: Annotated[
        str | None, typer.Option(help="Only this component.", autocompletion=_complete.submodels)
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Everything that no lease holds.")] = False,
    tier: TierOption = CacheTier.RAM,
    device: Annotated[
        str, typer.Option(help="With --tier vram: only from this accelerator.", show_default=False)
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Drop a model, or `model/component`, from memory; with --all everything that nobody uses."""
    named = members(SubModelType, [submodel] if submodel else None, "--submodel")
    if all == (model is not None) or (all and named):
        raise typer.BadParameter("name a model, or give --all alone")
    with connect() as client:
        if model is not None:
            key, part = find_part(client, model, named[0] if named else None)
            answer = client.model_loader.evict(
                key, part, tier=tier.value, device=device, validate_only=dry_run
            )
        else:
            answer = client.model_loader.evict_all(tier=tier.value, device=device, validate_only=True)
            if answer.evicted_count and not dry_run:
                plan = [f"{_name(one)}, {size(one.size_bytes)}" for one in answer.evicted]
                agreed(f"Drop {counted(answer.evicted_count, 'component')}?", plan, yes=yes)
                answer = client.model_loader.evict_all(tier=tier.value, device=device)
    if not emit(lambda: as_json(answer)):
        mapped = f"; {size(answer.zombie_bytes)} still mapped by workers" if answer.zombie_bytes else ""
        did, frees = ("Would drop", "would free") if dry_run else ("Dropped", "freed")
        what = counted(answer.evicted_count, "component")
        say(f"{did} {what}, which {frees} {size(answer.freed_bytes)}{mapped}.")


def _place(resident: resident_pb2.Resident) -> str:
    return f"on {resident.device}" if _tier(resident) == "vram" else "in memory"


def _where(resident: resident_pb2.Resident) -> str:
    """The device, where that says more than the tier."""
    tier = _tier(resident)
    return resident.device if tier == "vram" else tier


def _tier(resident: resident_pb2.Resident) -> str:
    from modelkeep.loader.v1 import resident_pb2

    return short(resident_pb2.Tier.Name(resident.tier), "TIER_")


def _state(resident: resident_pb2.Resident) -> str:
    from modelkeep.loader.v1 import resident_pb2

    return short(resident_pb2.ResidentState.Name(resident.state), "RESIDENT_STATE_")


def _kept(resident: resident_pb2.Resident) -> str:
    if resident.pinned:
        return "unpinned"
    return when(resident.keep_until_time.ToNanoseconds() / 1e9)


def _precision(resident: resident_pb2.Resident) -> str:
    return held_as(resident.precision, resident.weights)


def _computed_in(resident: resident_pb2.Resident) -> str:
    return held_as(resident.precision, 0)


def _memory_format(resident: resident_pb2.Resident) -> str:
    from modelkeep.loader.v1 import resident_pb2

    if not resident.memory_format:  # an object, or a file on the disk
        return ""
    name = resident_pb2.MemoryFormat.Name(resident.memory_format)
    return name.removeprefix("MEMORY_FORMAT_").lower()


def _name(resident: resident_pb2.Resident) -> str:
    keys: Any = " ".join(dict.fromkeys(map(component_name, resident.components)))
    return resident.display_name or keys or resident.id
