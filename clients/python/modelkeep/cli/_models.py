"""``modelkeep list``, ``show``, ``search``, ``edit``, ``rm`` and ``probe``."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelkeep.cli._errors import guarded
from modelkeep.cli._installs import assignments, labels, overrides
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
    when,
)
from modelkeep.exceptions import AmbiguousModelException, UnknownModelException

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig

Model = Annotated[str, typer.Argument(help="Key of a model, or a name that only one model has.")]

#: An answer names no more deleted files than this.
_NAMED_FILES = 1000
_KEY = re.compile(r"[0-9a-f]{32}")


class Sorting(StrEnum):
    """What a list is sorted by."""

    NAME = "name"
    TYPE = "type"
    SIZE = "size"
    CREATED = "create_time"
    UPDATED = "update_time"
    PATH = "path"


class Files(StrEnum):
    """What happens to a model's files."""

    KEEP = "keep"
    OWNED = "owned"
    ANY = "any"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_models)
    app.command()(show)
    app.command()(search)
    app.command()(edit)
    app.command()(rm)
    app.command()(probe)


def find_key(client: Client, model: str) -> str:
    """The key of a model that a person names by key or by name.

    Raises:
        UnknownModelException: No model has it.
        AmbiguousModelException: More than one model has this name.
    """
    if not model:
        # For a search, no name is every name: `rm "$KEY"` with KEY not set must not find the only model.
        raise typer.BadParameter("the model is an empty text; give its key or its name")
    if _KEY.fullmatch(model):
        return model
    found = client.model_record_store.search_by_name(model)
    if not found:
        raise UnknownModelException(f"No model has the key or name {model!r}.", metadata={"name": model})
    if len(found) > 1:
        keys = ", ".join(config.key for config in found)
        raise AmbiguousModelException(
            f"{len(found)} models have the name {model!r}: {keys}.",
            metadata={"name": model, "count": str(len(found))},
        )
    return found[0].key


@guarded
def list_models(
    type: Annotated[list[str] | None, typer.Option(help="Only these types, such as main, vae, lora.")] = None,
    base: Annotated[list[str] | None, typer.Option(help="Only models for these bases, such as sd-1.")] = None,
    format: Annotated[list[str] | None, typer.Option(help="Only these formats, such as diffusers.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only models with all of these tags.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only models with all of these labels.")
    ] = None,
    sort: Annotated[Sorting, typer.Option(help="What to sort by.")] = Sorting.NAME,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="Turn the order round.")] = False,
    json: Json = False,
) -> None:
    """List the models."""
    from modelkeep.client import Client

    wanted = labels(label)
    with Client() as client:
        configs = client.model_record_store.list_models(
            type=type,
            base=base,
            format=format,
            tags=tag,
            labels=wanted,
            order=sort.value,
            descending=reverse,
        )
    filtered = type or base or format or tag or label
    nothing = "There are no models; `modelkeep install SOURCE` brings one."
    _print_models(configs, json, empty="No model passes these filters." if filtered else nothing)


@guarded
def search(
    text: Annotated[
        list[str], typer.Argument(help="Words that all occur in name, description, tags, source or path.")
    ],
    json: Json = False,
) -> None:
    """Search the models; a path finds the model that lies there."""
    from modelkeep.client import Client

    words = " ".join(text)
    with Client() as client:
        configs = client.model_record_store.list_models(text=words)
        if not configs and "/" in words:
            try:
                configs = [client.model_record_store.search_by_path(words)]
            except UnknownModelException:
                configs = []
    _print_models(configs, json, empty=f"No model has {words!r}.")


@guarded
def show(model: Model, json: Json = False) -> None:
    """Show all that is known about a model, with its files."""
    from modelkeep.client import Client
    from modelkeep.configs.wire import to_file, to_model

    with Client() as client:
        key = find_key(client, model)
        config = client.model_record_store.get_model(key)
        files = client.model_record_store.list_files(key)
    if json:
        listed = [as_json(to_file(file)) for file in files]
        print_json({"model": as_json(to_model(config)), "files": listed})
        return
    print_facts(_facts(config))
    for file in files:
        digest = file.sha256 or file.digest_state.value
        print(f"  {visible(file.path)}\t{size(file.size_bytes)}\tsha256 {digest}")


@guarded
def edit(
    model: Model,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="FIELD=VALUE...", help='Such as name=new, description=, tags=\'["a", "b"]\'.'),
    ],
    json: Json = False,
) -> None:
    """Change fields of a model's record; an empty value clears one."""
    from modelkeep.client import Client
    from modelkeep.configs.wire import to_model

    values = assignments(changes)
    with Client() as client:
        config = client.model_record_store.update_model(find_key(client, model), values)
    if json:
        print_json(as_json(to_model(config)))
    else:
        print_facts(_facts(config))


@guarded
def rm(
    model: Model,
    files: Annotated[
        Files,
        typer.Option(
            help="keep: every file stays; owned: those inside models_dir are deleted; "
            "any: also those of a model that was installed in place (needs --yes)."
        ),
    ] = Files.OWNED,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Yes, delete files outside models_dir.")] = False,
    json: Json = False,
) -> None:
    """Remove a model's record, and its files inside models_dir."""
    from modelkeep.client import Client

    if files is Files.ANY and not yes:
        raise typer.BadParameter(
            "--files any deletes files that were there before modelkeep: repeat it with --yes"
        )
    with Client() as client:
        key = find_key(client, model)
        deleted: list[Path] = []
        if files is Files.KEEP:
            client.model_install.unregister(key)
        elif files is Files.OWNED:
            deleted = client.model_install.delete(key)
        else:
            deleted = client.model_install.unconditionally_delete(key)
    if json:
        print_json({"key": key, "deleted_paths": [str(path) for path in deleted]})
    else:
        least = "at least " if len(deleted) >= _NAMED_FILES else ""
        what = (
            f"deleted {least}{counted(len(deleted), 'file')}" if deleted else "its files stay where they are"
        )
        typer.echo(f"Removed {key}; {what}.")


@guarded
def probe(
    path: Annotated[str, typer.Argument(help="A safetensors file or a diffusers folder.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="What you know already: a hint."),
    ] = None,
    json: Json = False,
) -> None:
    """Tell what a file or folder holds, and why; changes nothing."""
    from modelkeep.client import Client
    from modelkeep.install.v1 import install_pb2
    from modelkeep.model.v1 import taxonomy_pb2

    with Client() as client:
        result = client.model_install.probe(path, overrides(set_) or None)
    if json:
        print_json(as_json(result))
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
        print(f"  not {other.kind}: {visible(other.reason)}")


def _print_models(configs: list[AnyModelConfig], json: bool, *, empty: str) -> None:
    if json:
        from modelkeep.configs.wire import to_model

        print_json({"models": [as_json(to_model(config)) for config in configs]})
        return
    print_table(
        ("KEY", "NAME", "TYPE", "BASE", "FORMAT", "SIZE"),
        [(c.key, c.name, c.model_type, c.base_model, c.model_format, size(c.size_bytes)) for c in configs],
        empty=empty,
    )


def _facts(config: AnyModelConfig) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        if name == "size_bytes":
            value = f"{size(value)} ({value} bytes)"
        elif name in ("create_time", "update_time"):
            value = when(value.timestamp()) if value else ""
        elif name == "submodels":
            value = ", ".join(part.type.value for part in value)
        elif isinstance(value, dict):
            value = ", ".join(f"{label}={text}" for label, text in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        facts.append((name, value))
    return facts
