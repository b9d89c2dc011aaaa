"""``modelkeep status`` and ``du``: how a suite does, and what takes room."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from modelkeep.cli import _table, _terminal, _watching
from modelkeep.cli._capacity import capacity_facts
from modelkeep.cli._listing import Column, Listing, size_column, time_column
from modelkeep.cli._options import chosen
from modelkeep.cli._output import as_json, counted, print_data, print_facts, short, size
from modelkeep.cli._places import connect, is_here
from modelkeep.cli._terminal import Look
from modelkeep.cli._verbs import DATA, LIST, Shared, verb
from modelkeep.defaults import EXIT_OK, EXIT_UNREACHABLE, SERVICES
from modelkeep.exceptions import ModelkeepError

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig
    from modelkeep.server.v1 import server_service_pb2

#: Of a service that is away, status does not wait long.
_TIMEOUT_S: Final = 5.0
_LOOKS: Final[Mapping[str, Look]] = {"up": "green", "away": "red"}
_WATCH: Final[Shared] = {**DATA, "watch": LIST["watch"]}


class Grouping(StrEnum):
    """By what the room that models take is summed up."""

    MODEL = "model"
    TYPE = "type"
    BASE = "base"
    FORMAT = "format"


@dataclass(frozen=True, slots=True)
class Service:
    """One service as status tells it: what it says of itself, or why it says nothing."""

    name: str
    address: str
    info: server_service_pb2.GetServerInfoResponse | None
    why: str = ""

    @property
    def state(self) -> str:
        """For people: up, away, or that the suite runs without it."""
        return "up" if self.info is not None else "away" if self.address else "not run"


@dataclass(frozen=True, slots=True)
class Room:
    """What some models take."""

    name: str
    models: int
    bytes: int
    share: float


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(app, takes=_WATCH, examples=("modelkeep status", "modelkeep status -w", "modelkeep status --json"))(
        status
    )
    verb(
        app,
        takes=LIST,
        examples=("modelkeep du", "modelkeep du --by type", "modelkeep du --sort size --limit 10"),
    )(du)


def status() -> None:
    """Show the suite: services, folders, room, models, jobs under way, memory.

    Exit code 4 if a service that should run does not answer.
    """
    while True:
        with connect(timeout_s=_TIMEOUT_S) as client:
            services = [_asked(client, name) for name in SERVICES]
            answers = _answers(client, services)
        if chosen().as_data:
            print_data(_data(services, answers), lines=chosen().watch)
        else:
            if chosen().watch and _terminal.stdout().moves:
                print("\x1b[H\x1b[2J", end="")
            _show(services, answers)
        if not chosen().watch:
            states = {one.state for one in services}
            raise typer.Exit(EXIT_OK if "up" in states and "away" not in states else EXIT_UNREACHABLE)
        time.sleep(_watching.POLL_S)


def du(
    by: Annotated[
        Grouping, typer.Option(help="What the room is summed up by.", case_sensitive=False)
    ] = Grouping.MODEL,
) -> None:
    """Show how much room models take, the largest first.

    Sizes are those of the records: of files that two models share both count the bytes.
    """
    noun = "model" if by is Grouping.MODEL else by.value
    listing: Listing[Room] = Listing(
        noun,
        "usage",
        (
            Column(noun.upper(), lambda room: room.name, cut="end"),
            Column("MODELS", lambda room: room.models, right=True, drop=2, order=lambda room: room.models),
            size_column(lambda room: room.bytes, drop=0),
            Column("SHARE", lambda r: f"{r.share:.0%}", right=True, drop=1, order=lambda r: r.share),
        ),
        key=lambda room: room.name,
        name=lambda room: room.name,
        data=lambda room: {
            "name": room.name,
            "model_count": str(room.models),
            "size_bytes": str(room.bytes),
        },
        filters={noun: lambda room: (room.name,)},
        totals=lambda rows: size(sum(room.bytes for room in rows)),
    )
    with connect() as client:
        models = client.model_record_store.list_models
        _watching.poll(listing, lambda: _rooms(models(), by), empty="There are no models.")
        disks = _disks(client)
    if _terminal.stdout().width is not None and not chosen().as_data and not chosen().quiet:
        for path, used, free in disks:
            print(f"{path}: {size(used)} used on its disk, {size(free)} free")


def _asked(client: Client, name: Any) -> Service:
    address = client.addresses[name].target
    try:
        return Service(name, address, client.server_info(name))
    except ModelkeepError as error:
        return Service(name, address, None, error.message)


def _answers(client: Client, services: Sequence[Service]) -> dict[str, Any]:
    """What the services that answer say: name of the call to its answer."""
    up = {one.name for one in services if one.info is not None}
    found: dict[str, Any] = {"disks": _disks(client) if "install" in up else []}
    with contextlib.suppress(ModelkeepError):  # one that goes away meanwhile says nothing
        if "record" in up:
            found["store"] = client.model_record_store.store_info()
        if "install" in up:
            found["installs"] = Counter(job.status.value for job in client.model_install.list_jobs())
        if "download" in up:
            jobs = client.create_download_queue(None, quiet=True).list_jobs()
            found["downloads"] = Counter(job.status.value for job in jobs)
        if "loader" in up:
            found["capacity"] = client.model_loader.capacity()
    return found


def _show(services: Sequence[Service], answers: dict[str, Any]) -> None:
    listing: Listing[Service] = Listing(
        "service",
        "services",
        (
            Column("SERVICE", lambda one: one.name),
            Column("STATE", lambda one: one.state, look=lambda one: _LOOKS.get(one.state)),
            Column("VERSION", lambda one: one.info.version if one.info else "", drop=2),
            Column("ADDRESS", lambda one: one.address, drop=1, cut="start"),
            time_column("STARTED", _started, drop=3),
        ),
        key=lambda one: one.name,
        name=lambda one: one.name,
        data=lambda one: one.name,
    )
    for line in _table.lines(listing, services, _terminal.stdout()):
        print(line)
    facts: list[tuple[str, object]] = [(one.name, one.why) for one in services if one.why]
    facts += [
        ("models folder", f"{path}, {size(used)} used on its disk, {size(free)} free")
        for path, used, free in answers["disks"]
    ]
    if (store := answers.get("store")) is not None:
        by_type = ", ".join(f"{count.count} {_type_name(count.type)}" for count in store.counts)
        more = f": {by_type}" if by_type else ""
        more += f"; {store.missing_count} missing" if store.missing_count else ""
        facts.append(("models", f"{counted(store.model_count, 'model')}, {size(store.size_bytes)}{more}"))
    for noun in ("installs", "downloads"):
        if noun in answers:
            told = ", ".join(f"{count} {state}" for state, count in sorted(answers[noun].items()))
            facts.append((noun, told or "none"))
    if "capacity" in answers:
        facts += capacity_facts(answers["capacity"])
    print_facts(facts)


def _data(services: Sequence[Service], answers: dict[str, Any]) -> dict[str, Any]:
    return {
        "services": [
            {"service": one.name, "address": one.address, "state": one.state, "error": one.why}
            if one.info is None
            else {**as_json(one.info), "address": one.address, "state": one.state}
            for one in services
        ],
        "disks": [
            {"path": path, "used_bytes": str(used), "free_bytes": str(free)}
            for path, used, free in answers["disks"]
        ],
        **{name: as_json(answers[name]) for name in ("store", "capacity") if name in answers},
        **{name: dict(answers[name]) for name in ("installs", "downloads") if name in answers},
    }


def _started(service: Service) -> float | None:
    return service.info.start_time.ToNanoseconds() / 1e9 if service.info is not None else None


def _type_name(number: int) -> str:
    from modelkeep.model.v1 import taxonomy_pb2

    try:
        return short(taxonomy_pb2.ModelType.Name(number), "MODEL_TYPE_")
    except ValueError:  # of a newer service
        return f"type {number}"


def _disks(client: Client) -> list[tuple[str, int, int]]:
    """(folder of models, bytes used on its disk, bytes free), where the service is on this host."""
    with contextlib.suppress(ModelkeepError):
        info = client.server_info("install")
        if is_here(info):
            return list(_measured(root.path for root in info.roots if root.purpose == "models"))
    return []


def _measured(paths: Any) -> Iterator[tuple[str, int, int]]:
    for path in paths:
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(path)
            yield path, usage.used, usage.free


def _rooms(configs: Sequence[AnyModelConfig], by: Grouping) -> list[Room]:
    def called(config: AnyModelConfig) -> str:
        if by is Grouping.MODEL:
            return config.name
        return str(
            getattr(config, {"type": "model_type", "base": "base_model", "format": "model_format"}[by])
        )

    total = sum(config.size_bytes for config in configs) or 1
    groups: dict[Any, list[AnyModelConfig]] = {}
    for config in configs:
        groups.setdefault(config.key if by is Grouping.MODEL else called(config), []).append(config)
    rooms = []
    for group in groups.values():
        taken = sum(config.size_bytes for config in group)
        rooms.append(Room(called(group[0]), len(group), taken, taken / total))
    return sorted(rooms, key=lambda room: -room.bytes)
