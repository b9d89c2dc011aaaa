"""``modelkeep cache leases|revoke|drain|undrain``: who holds what, and how to get it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from modelkeep.cli import _complete, _table, _watching
from modelkeep.cli._asking import Yes, agreed
from modelkeep.cli._fields import labels as labels_of
from modelkeep.cli._listing import Column, Listing, size_column, time_column
from modelkeep.cli._naming import OneModel, find_key
from modelkeep.cli._options import chosen
from modelkeep.cli._output import as_json, counted, emit, say, short, size, when
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, verb

if TYPE_CHECKING:
    from modelkeep.loader.v1 import resident_pb2

_NONE = "There are no leases."


def add_to(group: typer.Typer) -> None:
    """Add the commands to ``modelkeep cache``."""
    verb(
        group,
        takes=LIST,
        lists=leases_listing(),
        examples=(
            "modelkeep cache leases -w",
            "modelkeep cache leases --label job=42",
            "modelkeep cache leases --filter pid=4711 -q",
        ),
    )(leases)
    verb(
        group,
        takes=DATA,
        examples=("modelkeep cache revoke LEASE --grace 30 --why 'the machine goes down'",),
    )(revoke)
    verb(
        group,
        takes=DATA,
        examples=("modelkeep cache drain --wait 60 --revoke --why 'a new kernel'", "modelkeep cache drain"),
    )(drain)
    verb(group, takes=DATA, examples=("modelkeep cache undrain",))(undrain)


def leases_listing() -> Listing[resident_pb2.Lease]:
    """How leases are listed."""

    def state(lease: resident_pb2.Lease) -> str:
        from modelkeep.loader.v1 import resident_pb2

        return short(resident_pb2.LeaseState.Name(lease.state), "LEASE_STATE_")

    return Listing(
        "lease",
        "leases",
        (
            Column("COMPONENTS", lambda lease: " ".join(_lent(lease)), cut="end"),
            Column("ID", lambda lease: lease.id),
            Column("STATE", state, drop=3),
            Column("PID", lambda lease: lease.holder.pid or "", right=True, drop=1),
            Column("CALLER", lambda lease: lease.holder.principal, drop=4),
            Column("HOLDER", lambda lease: lease.holder.label, drop=5, cut="end"),
            size_column(_held_bytes, drop=2),
            time_column("SINCE", lambda lease: lease.create_time.ToNanoseconds() / 1e9, drop=6),
            Column("LABELS", lambda lease: " ".join(_labels(lease)), wide=True),
            Column("CHANGE", lambda lease: _change(lease), wide=True),
            time_column("ENDS BY", _ends_by, drop=6, wide=True),
        ),
        key=lambda lease: lease.id,
        name=lambda lease: " ".join(_lent(lease)),
        data=as_json,
        filters={
            "id": lambda lease: (lease.id,),
            "state": lambda lease: (state(lease),),
            "pid": lambda lease: (str(lease.holder.pid),),
            "caller": lambda lease: (lease.holder.principal,),
            "holder": lambda lease: (lease.holder.label,),
            "label": _labels,
            "component": _lent,
            "model": lambda lease: [name.rpartition("/")[0] or name for name in _lent(lease)],
        },
        totals=lambda rows: size(sum(map(_held_bytes, rows))),
    )


def leases(
    model: OneModel = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only leases with all of these labels.")
    ] = None,
) -> None:
    """List the leases: who holds what."""
    with connect() as client:
        key, wanted = find_key(client, model) if model else None, labels_of(label)
        if chosen().watch:
            states = _watching.of_frames(client.model_loader.watch_leases(key, labels=wanted))
            _watching.watch(leases_listing(), states, empty=_NONE)
        found = client.model_loader.leases(key, labels=wanted)
    _table.show(leases_listing(), found, empty=_NONE)


def revoke(
    lease: Annotated[
        str,
        typer.Argument(
            help="The lease's id, as `modelkeep cache leases` shows it.", autocompletion=_complete.leases
        ),
    ],
    why: Annotated[str, typer.Option(help="What to tell its holder.")] = "",
    grace: Annotated[
        float, typer.Option(min=0.0, max=86400.0, help="Seconds that its holder may go on; 0: none.")
    ] = 0.0,
) -> None:
    """End somebody's lease, so that its memory can be used for others."""
    from modelkeep.loader.v1 import resident_pb2

    with connect() as client:
        told = client.model_loader.revoke(lease, why, grace_s=grace)
    if emit(lambda: as_json(told)):
        return
    what = f"{visible(told.id)} of {visible(' '.join(_lent(told)))}"
    if told.state == resident_pb2.LEASE_STATE_REVOKING:
        say(f"Asked {what} back; it ends by {when(_ends_by(told))}.")
    else:
        say(f"Ended {what}. What its holder has mapped stays there until it lets go.")


def drain(
    wait: Annotated[
        float, typer.Option(min=0.0, max=86400.0, help="Seconds to wait for the leases to end.")
    ] = 0.0,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Ask all leases back; after --wait seconds they end.")
    ] = False,
    why: Annotated[str, typer.Option(help="What to tell holders, and those who are refused.")] = "",
    yes: Yes = False,
) -> None:
    """Take the loader out of service: no new leases, until `modelkeep cache undrain`."""
    with connect() as client:
        if revoke:
            held = [f"{one.id}  {' '.join(_lent(one))}" for one in client.model_loader.leases()]
            if held:
                agreed(f"End {counted(len(held), 'lease')} within {wait:g} s?", held, yes=yes)
        last = None
        for last in client.model_loader.drain(timeout_s=wait, revoke=revoke, why=why):
            if not chosen().as_data and not last.done:
                say(f"{counted(last.lease_count, 'lease')} left, {size(last.leased_bytes)}")
    if last is None or emit(lambda: as_json(last)):
        return
    if last.lease_count:
        say(
            f"The loader gives no new leases. {counted(last.lease_count, 'lease')} left, "
            f"{size(last.leased_bytes)}: {visible(', '.join(last.lease_ids))}"
        )
    else:
        say("The loader gives no new leases, and none is left.")


def undrain() -> None:
    """Let the loader give leases again."""
    with connect() as client:
        was_drained = client.model_loader.undrain()
    if not emit(lambda: {"was_drained": was_drained}):
        say("The loader gives leases again." if was_drained else "The loader was not drained.")


def component_name(ref: resident_pb2.ComponentRef, name: str = "") -> str:
    from modelkeep.model.v1 import taxonomy_pb2

    submodel = taxonomy_pb2.SubModelType.Name(ref.submodel).removeprefix("SUB_MODEL_TYPE_").lower()
    called = visible(name) or ref.key
    return called if submodel == "unspecified" or called.endswith(f"/{submodel}") else f"{called}/{submodel}"


def _held_bytes(lease: resident_pb2.Lease) -> int:
    """In RAM and on accelerators together."""
    return lease.size_bytes + lease.vram_bytes


def _lent(lease: resident_pb2.Lease) -> Sequence[str]:
    return list(lease.display_names) or [component_name(ref) for ref in lease.components]


def _labels(lease: resident_pb2.Lease) -> Sequence[str]:
    return [f"{name}={value}" for name, value in sorted(lease.labels.items())]


def _change(lease: resident_pb2.Lease) -> str:
    from modelkeep.loader.v1 import resident_pb2

    return short(resident_pb2.LeaseChange.Name(lease.last_change), "LEASE_CHANGE_")


def _ends_by(lease: resident_pb2.Lease) -> float | None:
    if not lease.HasField("revoke_deadline_time"):
        return None
    return float(lease.revoke_deadline_time.ToNanoseconds() / 1e9)
