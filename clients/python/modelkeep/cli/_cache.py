"""``modelkeep load`` and ``modelkeep cache``: the loader's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli._errors import guarded
from modelkeep.cli._models import Model, find_key
from modelkeep.cli._output import (
    Json,
    as_json,
    counted,
    print_facts,
    print_json,
    print_table,
    short,
    size,
    visible,
)

if TYPE_CHECKING:
    from modelkeep.loader.v1 import resident_pb2

_group = typer.Typer(help="Look into the loader's memory.", invoke_without_command=True)

Only = Annotated[str | None, typer.Argument(help="Only this model: its key, or its name.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(load)
    app.add_typer(_group, name="cache")


@guarded
def load(
    model: Model,
    submodel: Annotated[
        list[str] | None, typer.Option(help="Component of a main model, such as vae; may be repeated.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto (that of the files), float32, float16 or bfloat16.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Bring a model into the loader's memory, so that workers have it at once."""
    from modelkeep.cli._follow import Bar
    from modelkeep.client import Client
    from modelkeep.loader.v1 import loader_service_pb2, resident_pb2

    with Client() as client, Bar().shown() as bar:

        def show(progress: loader_service_pb2.LoadProgress) -> None:
            stage = short(resident_pb2.ResidentState.Name(progress.stage), "RESIDENT_STATE_")
            moved = progress.progress
            bar.update(f"{_component(progress.component)}: {stage}", moved.bytes_done, moved.bytes_total)

        key = find_key(client, model)
        residents = client.model_loader.load(key, submodel or (), precision=precision, on_progress=show)
    if json:
        print_json({"residents": [as_json(resident) for resident in residents]})
        return
    for resident in residents:
        held = short(resident_pb2.Precision.Name(resident.precision), "PRECISION_")
        typer.echo(
            f"{_names(resident)}: {visible(resident.class_name)}, {held}, {size(resident.size_bytes)} "
            f"in memory ({resident.load_seconds:.2f} s)"
        )


@_group.callback()
@guarded
def cache(context: typer.Context) -> None:
    """Look into the loader's memory; without a command, show the capacity and what is there."""
    if context.invoked_subcommand is None:
        capacity()
        residents()


@_group.command()
@guarded
def residents(model: Only = None, json: Json = False) -> None:
    """List the components in memory."""
    from modelkeep.client import Client
    from modelkeep.loader.v1 import resident_pb2

    with Client() as client:
        found = client.model_loader.residents(find_key(client, model) if model else None)
    if json:
        print_json({"residents": [as_json(resident) for resident in found]})
        return
    print_table(
        ("COMPONENT", "CLASS", "PRECISION", "STATE", "SIZE", "LEASES"),
        [
            (
                _names(r),
                r.class_name,
                short(resident_pb2.Precision.Name(r.precision), "PRECISION_"),
                short(resident_pb2.ResidentState.Name(r.state), "RESIDENT_STATE_"),
                size(r.size_bytes),
                r.lease_count,
            )
            for r in found
        ],
        empty="Nothing is in memory; `modelkeep load MODEL` brings something.",
    )


@_group.command()
@guarded
def leases(model: Only = None, json: Json = False) -> None:
    """List the leases: who holds what."""
    from modelkeep.client import Client
    from modelkeep.loader.v1 import resident_pb2

    with Client() as client:
        found = client.model_loader.leases(find_key(client, model) if model else None)
    if json:
        print_json({"leases": [as_json(lease) for lease in found]})
        return
    print_table(
        ("ID", "STATE", "PID", "CALLER", "HOLDER", "SIZE", "COMPONENTS"),
        [
            (
                lease.id,
                short(resident_pb2.LeaseState.Name(lease.state), "LEASE_STATE_"),
                lease.holder.pid or "",
                lease.holder.principal,
                lease.holder.label,
                size(lease.size_bytes),
                " ".join(map(_component, lease.components)),
            )
            for lease in found
        ],
        empty="There are no leases.",
    )


@_group.command()
@guarded
def revoke(
    lease: Annotated[str, typer.Argument(help="The lease's id, as `modelkeep cache leases` shows it.")],
    why: Annotated[str, typer.Option(help="What to tell its holder.")] = "",
    json: Json = False,
) -> None:
    """End somebody's lease, so that its memory can be used for others."""
    from modelkeep.client import Client

    with Client() as client:
        ended = client.model_loader.revoke(lease, why)
    if json:
        print_json(as_json(ended))
    else:
        typer.echo(f"Ended {ended.id}. What its holder has mapped stays there until it lets go.")


@_group.command()
@guarded
def capacity(json: Json = False) -> None:
    """Show budgets, and what is in use."""
    from modelkeep.client import Client
    from modelkeep.loader.v1 import resident_pb2

    with Client() as client:
        answer = client.model_loader.capacity()
    if json:
        print_json(as_json(answer))
        return
    for tier in answer.tiers:
        name = short(resident_pb2.Tier.Name(tier.tier), "TIER_")
        print_facts(
            [
                (
                    f"{name} {tier.device}".strip(),
                    f"{size(tier.used_bytes)} of {size(tier.budget_bytes)} in use, "
                    f"{size(tier.leased_bytes)} leased, {size(tier.zombie_bytes)} evicted and still mapped",
                )
            ]
        )
    print_facts(
        [
            ("devices", ", ".join(answer.devices)),
            ("leases", f"{answer.lease_count}, {answer.queued_count} waiting"),
        ]
    )


@_group.command()
@guarded
def evict(
    model: Model,
    submodel: Annotated[str | None, typer.Option(help="Only this component.")] = None,
    json: Json = False,
) -> None:
    """Drop a model from memory."""
    from modelkeep.client import Client

    with Client() as client:
        answer = client.model_loader.evict(find_key(client, model), submodel)
    if json:
        print_json(as_json(answer))
    else:
        mapped = f"; {size(answer.zombie_bytes)} still mapped by workers" if answer.zombie_bytes else ""
        typer.echo(
            f"Dropped {counted(len(answer.evicted), 'component')}, "
            f"{size(answer.freed_bytes)} free again{mapped}."
        )


def _component(ref: resident_pb2.ComponentRef) -> str:
    from modelkeep.model.v1 import taxonomy_pb2

    submodel = taxonomy_pb2.SubModelType.Name(ref.submodel).removeprefix("SUB_MODEL_TYPE_").lower()
    return ref.key if submodel == "unspecified" else f"{ref.key}/{submodel}"


def _names(resident: resident_pb2.Resident) -> str:
    return " ".join(dict.fromkeys(map(_component, resident.components))) or resident.id
