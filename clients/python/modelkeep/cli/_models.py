"""``modelkeep list``, ``search``, ``show``, ``where`` and ``probe``: looking at models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from modelkeep.cli import _table, _terminal, _wanted, _watching
from modelkeep.cli._fields import overrides
from modelkeep.cli._listing import Column, Listing, key_column, size_column, time_column
from modelkeep.cli._naming import Models, find_model
from modelkeep.cli._options import chosen
from modelkeep.cli._output import KEY_SHOWN, as_json, counted, emit, print_facts, say, short, size, when
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, verb
from modelkeep.exceptions import ModelkeepError, UnknownModelException

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig, ModelFile

#: Seconds that a list waits for what is on the disk.
_LOOK_S: Final = 2.0
_NOTHING: Final = "There are no models; `modelkeep install SOURCE` brings one."


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        "list",
        takes=LIST,
        lists=listing(),
        examples=(
            "modelkeep list --type lora,vae --base sdxl",
            "modelkeep list --sort size --reverse --limit 10   # the ten largest",
            "modelkeep list -q --tag old | xargs modelkeep rm --dry-run",
            "modelkeep list -o wide -w",
        ),
    )(list_models)
    verb(
        app,
        takes=LIST,
        lists=listing(),
        examples=("modelkeep search ink sketch", "modelkeep search /data/models/ink.safetensors"),
    )(search)
    verb(
        app,
        takes=DATA,
        examples=("modelkeep show tiny-sd", "modelkeep show 0123abcd", "modelkeep show sketch:sdxl -o yaml"),
    )(show)
    verb(app, takes=DATA, examples=('ls -l "$(modelkeep where tiny-sd)"',))(where)
    verb(
        app,
        takes=DATA,
        examples=("modelkeep probe ./ink.safetensors", "modelkeep probe ./vae --set base=sdxl"),
    )(probe)


def listing() -> Listing[AnyModelConfig]:
    """How models are listed."""

    def seconds(moment: Any) -> float | None:
        return moment.timestamp() if moment is not None else None

    return Listing(
        "model",
        "models",
        (
            Column("NAME", lambda c: c.name, cut="end"),
            key_column(lambda c: c.key, drop=1),
            Column("TYPE", lambda c: c.model_type, drop=2),
            Column("BASE", lambda c: c.base_model, drop=3),
            Column("FORMAT", lambda c: c.model_format, drop=5),
            size_column(lambda c: c.size_bytes, drop=4),
            time_column("CREATED", lambda c: seconds(c.create_time), drop=6),
            Column("STATE", _state, drop=1, look=lambda c: "red" if c.missing_time else None),
            Column("TAGS", lambda c: ", ".join(c.tags), drop=7, cut="end"),
            time_column("UPDATED", lambda c: seconds(c.update_time), drop=8, wide=True),
            Column("LABELS", lambda c: ", ".join(f"{k}={v}" for k, v in c.labels.items()), wide=True),
            Column("PATH", lambda c: c.path, wide=True),
        ),
        key=lambda c: c.key,
        name=lambda c: c.name,
        data=model_data,
        filters={
            "name": lambda c: (c.name,),
            "key": lambda c: (c.key,),
            "type": lambda c: (c.model_type,),
            "base": lambda c: map(str, c.bases),
            "format": lambda c: (c.model_format,),
            "tag": lambda c: c.tags,
            "state": lambda c: (_state(c),),
            "source": lambda c: (c.source or "",),
            "path": lambda c: (c.path,),
            "label": lambda c: (f"{name}={value}" for name, value in c.labels.items()),
            "license": lambda c: (str(c.license),),
        },
        totals=_totals,
    )


def list_models(
    type: _wanted.Types = None,
    base: _wanted.Bases = None,
    format: _wanted.Formats = None,
    tag: _wanted.Tags = None,
    label: _wanted.Labels = None,
    related_to: _wanted.RelatedTo = None,
    missing: _wanted.Missing = None,
) -> None:
    """List the models; the files of one that is missing are not where they were.

    Filters take several values with commas between them, in any case.
    """
    wanted = _wanted.filters(type=type, base=base, format=format, tag=tag, label=label)
    empty = _NOTHING
    if any(wanted.values()) or related_to or missing is not None:
        empty = f"No model passes these filters.{_wanted.near(wanted)}"
    with connect() as client:
        look_for_files(client)
        if related_to is not None:
            wanted["related_to"] = find_model(client, related_to).key
        if chosen().watch:
            frames = client.model_record_store.watch(**wanted)
            states = _watching.of_frames(frames, lambda c: missing in (None, c.missing_time is not None))
            _watching.watch(listing(), states, empty=empty)
        configs = client.model_record_store.list_models(**wanted, missing=missing)
    _table.show(listing(), configs, empty=empty)


def search(
    text: Annotated[
        list[str], typer.Argument(help="Words that all occur in name, description, tags, source or path.")
    ],
) -> None:
    """Search the models; a path finds the model that lies there."""
    sought = " ".join(text)
    with connect() as client:
        look_for_files(client)
        if chosen().watch:
            frames = client.model_record_store.watch(text=sought)
            _watching.watch(listing(), _watching.of_frames(frames), empty=f"No model has {sought!r}.")
        configs = client.model_record_store.list_models(text=sought)
        if not configs and "/" in sought:
            try:
                configs = [client.model_record_store.search_by_path(sought)]
            except UnknownModelException:
                configs = []
    _table.show(listing(), configs, empty=f"No model has {sought!r}.")


def show(model: Models) -> None:
    """Show all that is known about models, with their files."""
    with connect() as client:
        look_for_files(client)
        found = [_described(client, find_model(client, one)) for one in model]
    if emit(lambda: found[0][1]() if len(found) == 1 else [data() for _, data in found]):
        return
    for place, (facts, _) in enumerate(found):
        if place:
            print()
        facts()


def where(model: Models) -> None:
    """Print the absolute paths of models, one a line."""
    with connect() as client:
        paths = [
            (one.key, absolute_path(client, one)) for one in (find_model(client, name) for name in model)
        ]
    if not emit(lambda: [{"key": key, "path": path} for key, path in paths]):
        for _, path in paths:
            say(visible(path))


def probe(
    path: Annotated[str, typer.Argument(help="A safetensors file or a diffusers folder.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="What you know already: a hint."),
    ] = None,
) -> None:
    """Tell what a file or folder holds, and why; changes nothing."""
    from modelkeep.install.v1 import install_pb2
    from modelkeep.model.v1 import taxonomy_pb2

    with connect() as client:
        result = client.model_install.probe(path, overrides(set_) or None)
    if emit(lambda: as_json(result)):
        return
    parts = [taxonomy_pb2.SubModelType.Name(part.type) for part in result.submodels]
    prediction = taxonomy_pb2.PredictionType.Name(result.prediction_type)
    print_facts(
        [
            ("name", result.name),
            ("type", short(taxonomy_pb2.ModelType.Name(result.type), "MODEL_TYPE_")),
            ("format", short(taxonomy_pb2.ModelFormat.Name(result.format), "MODEL_FORMAT_")),
            ("base", result.base),
            ("possible bases", ", ".join(result.possible_bases)),
            ("also fits", ", ".join(result.compatible_bases)),
            ("variant", short(taxonomy_pb2.ModelVariant.Name(result.variant), "MODEL_VARIANT_")),
            ("prediction type", short(prediction, "PREDICTION_TYPE_")),
            ("components", ", ".join(short(part, "SUB_MODEL_TYPE_") for part in parts)),
            ("size", f"{size(result.size_bytes)} in {counted(result.file_count, 'file')}"),
        ]
    )
    for evidence in result.evidence:
        strength = short(install_pb2.EvidenceStrength.Name(evidence.strength), "EVIDENCE_STRENGTH_")
        print(f"  {visible(evidence.finding)} ({strength}): {visible(evidence.observation)}")
    for other in result.ruled_out:
        print(f"  not {visible(other.kind)}: {visible(other.reason)}")


def look_for_files(client: Client) -> None:
    """Have it looked at once whether models are where their records say.

    Where nobody can look, the records tell what they know.
    """
    with contextlib.suppress(ModelkeepError):
        client.model_install.check_models(timeout=_LOOK_S)


def _files() -> Listing[ModelFile]:
    """How a model's files are listed."""

    def digest(file: ModelFile) -> str:
        return file.sha256 or file.digest_state.value

    return Listing(
        "file",
        "files",
        (
            Column("FILE", lambda file: file.path, cut="start"),
            size_column(lambda file: file.size_bytes, drop=1),
            Column("SHA256", digest, lambda file, now: digest(file)[:KEY_SHOWN], drop=2),
        ),
        key=lambda file: file.path,
        name=lambda file: file.path,
        data=lambda file: file.path,
        totals=lambda files: size(sum(file.size_bytes for file in files)),
    )


def _state(config: AnyModelConfig) -> str:
    return "missing" if config.missing_time else ""


def _totals(configs: Sequence[AnyModelConfig]) -> str:
    missing = sum(config.missing_time is not None for config in configs)
    room = size(sum(config.size_bytes for config in configs))
    return f"{room}, {missing} missing" if missing else room


def absolute_path(client: Client, config: AnyModelConfig) -> str:
    """Where a model lies on the services' host; of one that somebody else serves its address.

    Raises:
        ModelkeepError: It lies in a models_dir, and no service says where that is.
    """
    from modelkeep.values import is_url

    if Path(config.path).is_absolute() or is_url(config.path):
        return config.path
    for root in client.server_info("install").roots:
        if root.purpose == "models" and root.root_id == config.root_id:
            return str(Path(root.path) / config.path)
    raise ModelkeepError(
        f"{config.name} lies at {config.path} in the models_dir {config.root_id}, which the running services "
        "do not have.",
        metadata={"path": config.path, "root_id": config.root_id or ""},
    )


def names_of(client: Client, keys: Sequence[str]) -> list[str]:
    """What models are called, in the order of names; one without a record by its key."""
    if not keys:
        return []
    names = {config.key: config.name for config in client.model_record_store.get_models(keys)}
    return sorted(names.get(key, key) for key in keys)


def facts_of(
    config: AnyModelConfig, path: str | None = None, related: Sequence[str] | None = None
) -> list[tuple[str, Any]]:
    """What there is to say about a model, for people; ``related`` are the names of related models."""
    from pydantic import BaseModel

    from modelkeep.configs import CoverImage

    facts: list[tuple[str, Any]] = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, CoverImage):
            value = f"{value.media_type}, {size(value.size_bytes)}"
        elif isinstance(value, BaseModel):
            value = {part: said for part, said in dict(value).items() if said is not None}
        if name == "size_bytes":
            value = f"{size(value)} ({value} bytes)"
        elif name == "path" and path:
            value = path
        elif name == "related_keys" and related is not None:
            name, value = "related", ", ".join(related)
        elif name.endswith("_time"):
            value = when(value.timestamp()) if value else ""
        elif name == "submodels":
            value = ", ".join(part.type.value for part in value)
        elif name == "extra_fields":
            value = ", ".join(value)
        elif isinstance(value, dict):
            value = ", ".join(f"{label}={text}" for label, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        facts.append((name, value))
    return sorted(facts, key=lambda fact: fact[0] != "name")


def _described(client: Client, config: AnyModelConfig) -> tuple[Any, Any]:
    from modelkeep.configs.wire import to_file

    files = client.model_record_store.list_files(config.key)
    try:
        path = absolute_path(client, config)
    except ModelkeepError:  # the install service is away: the record still says much
        path = config.path
    related = names_of(client, config.related_keys)

    def facts() -> None:
        print_facts(facts_of(config, path, related))
        if files:
            print()
            for line in _table.lines(_files(), files, _terminal.stdout()):
                print(line)

    def data() -> dict[str, Any]:
        listed = [as_json(to_file(file)) for file in files]
        return {"model": model_data(config), "files": listed, "absolute_path": path}

    return facts, data


def model_data(config: AnyModelConfig) -> dict[str, Any]:
    """A model for programs."""
    from modelkeep.configs.wire import to_model

    return as_json(to_model(config))
