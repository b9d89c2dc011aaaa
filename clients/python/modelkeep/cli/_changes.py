"""``modelkeep edit``, ``rm`` and ``tag``: changing and removing models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from modelkeep.cli import _complete, _fields, _watching
from modelkeep.cli._asking import DryRun, Yes, agreed, can_ask
from modelkeep.cli._listing import Column, Listing
from modelkeep.cli._models import absolute_path, facts_of, model_data, names_of
from modelkeep.cli._naming import Model, Models, find_model
from modelkeep.cli._output import counted, emit, print_facts, say, size
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, group, lists, verb
from modelkeep.exceptions import (
    EtagMismatchException,
    FieldInvalidException,
    FieldViolation,
    ModelInUseException,
    ModelkeepError,
)

if TYPE_CHECKING:
    from modelkeep.client import Client, Uninstalled
    from modelkeep.configs import AnyModelConfig

#: What follows from a model's files.
_FROM_FILES: Final = ("size_bytes", "original_hash", "current_hash", "root_id")
_tags = group("Put tags on models, and take them off; without a command, list them.")


class Files(StrEnum):
    """What happens to a model's files."""

    KEEP = "keep"
    OWNED = "owned"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a model comes to.

    Attributes:
        config: Its record.
        path: Where it lies.
        answer: What the service deletes, or deleted.
    """

    config: AnyModelConfig
    path: str
    answer: Uninstalled

    @property
    def line(self) -> str:
        """For people."""
        kind = f"{self.config.model_type}, {self.config.base_model}"
        count = self.answer.deleted_count
        fate = "keeps its files"
        if count:
            fate = f"deletes {counted(count, 'file')}, {size(self.answer.deleted_bytes)}"
        if self.answer.shared:
            fate += f", keeps {counted(len(self.answer.shared), 'file')} that other models have too"
        held = counted(len(self.answer.leases), "lease") if self.answer.leases_known else "leases not known"
        return f"  {self.config.name} ({kind}): {fate}; {held}; {self.path}"

    @property
    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "key": self.config.key,
            "name": self.config.name,
            "path": self.path,
            "deleted_paths": [str(path) for path in self.answer.deleted_paths],
            "deleted_count": str(self.answer.deleted_count),
            "deleted_bytes": str(self.answer.deleted_bytes),
            "lease_ids": self.answer.leases,
            "leases_known": self.answer.leases_known,
        }


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep edit tiny-sd name=my-sd description='for tests'",
            'modelkeep edit sketch \'tags=["ink", "paper"]\' trigger_phrases=',
            "modelkeep edit tiny-sd default_settings.steps=30 source_url=https://example.org/tiny-sd",
        ),
    )(edit)
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep rm sketch twin:sdxl 0123abcd",
            "modelkeep rm sketch --dry-run",
            "modelkeep rm sketch --keep-files -y",
        ),
    )(rm)
    app.add_typer(_tags, name="tag")
    lists(_tags, tag)
    verb(_tags, takes=DATA, examples=("modelkeep tag add sketch ink paper",))(add)
    verb(_tags, "rm", takes=DATA, examples=("modelkeep tag rm sketch paper",))(remove)
    verb(_tags, "ls", takes=LIST, examples=("modelkeep tag ls", "modelkeep tag ls sketch"))(list_tags)


def edit(
    model: Model,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="FIELD=VALUE...", help='Such as name=new, description=, tags=\'["a", "b"]\'.'),
    ],
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Change fields of a model's record; an empty value clears one. Another path must hold the same model.

    Another type loses the settings that it has no field for: on a terminal it asks first, elsewhere it wants
    --yes.
    """
    values = _fields.changes(changes)
    with connect() as client:
        store = client.model_record_store
        config = find_model(client, model)
        values, path = _without_path(config, values)
        if path:
            client.model_install.relink(config.key, path, validate_only=True)
        preview = store.preview_update(config.key, values)
        lost = ", ".join(preview.lost_fields)
        if dry_run:
            answer = {"model": model_data(preview.config), "lost_fields": list(preview.lost_fields)}
            if not emit(lambda: answer):
                related = names_of(client, preview.config.related_keys)
                print_facts(facts_of(preview.config, related=related))
                say(f"Would lose {lost}." if lost else "Nothing would be lost.")
            return
        if lost:
            _agreed_to_lose(config, preview.config.model_type, lost, yes=yes)
        if path:
            client.model_install.relink(config.key, path)
        config = store.update_model(config.key, values)
        related = names_of(client, config.related_keys)
    if not emit(lambda: model_data(config)):
        print_facts(facts_of(config, related=related))


def _without_path(config: AnyModelConfig, values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The changes without the path, and that: it changes only where the same model lies, as by ``relink``."""
    if follows := [name for name in _FROM_FILES if name in values]:
        problem = "follows from the files: install the model anew to change it"
        raise FieldInvalidException("", violations=[FieldViolation(name, problem) for name in follows])
    path = values.get("path")
    if not path:
        return values, ""
    # Where nothing else is to change, the name as it is changes nothing.
    return {name: value for name, value in values.items() if name != "path"} or {"name": config.name}, path


def rm(
    model: Models,
    files: Annotated[
        Files,
        typer.Option(
            help="keep: every file stays; owned: those inside models_dir are deleted; "
            "any: also those of a model that was installed in place.",
            case_sensitive=False,
        ),
    ] = Files.OWNED,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="As --files keep.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also models that leases hold; what is in use goes on working.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove models' records, and their files inside models_dir; on a terminal it asks first."""
    files = Files.KEEP if keep_files else files
    if files is Files.ANY and not yes and not dry_run:
        raise typer.BadParameter(
            "--files any deletes files that were there before modelkeep: look with --dry-run, then repeat it "
            "with --yes"
        )
    with connect() as client:
        found = {config.key: config for config in (find_model(client, one) for one in model)}
        planned = [_uninstalled(client, config, files, only_told=True) for config in found.values()]
        held = [removal for removal in planned if removal.answer.leases and not force]
        if dry_run:
            plan = {"would_remove": [removal.data for removal in planned], "needs_force": bool(held)}
            if not emit(lambda: plan):
                say(f"Would remove {_summary(planned)}:")
                for removal in planned:
                    say(visible(removal.line))
                if held:
                    say("Leases hold what is to go: without --force nothing is removed.")
            return
        if held:
            raise _in_use(held)
        agreed(f"Remove {_summary(planned)}?", [removal.line for removal in planned], yes=yes)
        removed = [_uninstalled(client, config, files, force=force) for config in found.values()]
    if not emit(lambda: removed[0].data if len(removed) == 1 else {"removed": [one.data for one in removed]}):
        for one in removed:
            freed = f"deleted {counted(one.answer.deleted_count, 'file')}, {size(one.answer.deleted_bytes)}"
            what = freed if one.answer.deleted_count else "its files stay where they are"
            say(f"Removed {visible(one.config.name)} ({one.config.key}); {what}.")


def tag(ctx: typer.Context) -> None:
    """Put tags on models, and take them off; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_tags()


def add(
    model: Model,
    tags: Annotated[list[str], typer.Argument(help="Tags.", autocompletion=_complete.tags)],
) -> None:
    """Put tags on a model."""
    _retag(model, lambda present: list(dict.fromkeys([*present, *tags])))


def remove(
    model: Model,
    tags: Annotated[list[str], typer.Argument(help="Tags.", autocompletion=_complete.tags)],
) -> None:
    """Take tags off a model."""
    gone = {one.casefold() for one in tags}
    _retag(model, lambda present: [one for one in present if one.casefold() not in gone])


def list_tags(
    model: Annotated[
        str | None, typer.Argument(help="Only this model's.", autocompletion=_complete.models)
    ] = None,
) -> None:
    """List the tags, with how many models have each."""
    tag_listing: Listing[tuple[str, int]] = Listing(
        "tag",
        "tags",
        (
            Column("TAG", lambda row: row[0], cut="end"),
            Column("MODELS", lambda row: row[1], right=True, order=lambda row: row[1]),
        ),
        key=lambda row: row[0],
        name=lambda row: row[0],
        data=lambda row: {"tag": row[0], "count": row[1]},
        filters={"tag": lambda row: (row[0],)},
    )
    with connect() as client:

        def fetch() -> list[tuple[str, int]]:
            wanted = find_model(client, model).tags if model else None
            counts = client.model_record_store.tags().items()
            return [row for row in counts if wanted is None or row[0] in wanted]

        empty = "There are no tags; `modelkeep tag add MODEL TAG` makes one."
        _watching.poll(tag_listing, fetch, empty=empty)


def _retag(model: str, change: Any) -> None:
    with connect() as client:
        config = find_model(client, model)
        while (tags := change(config.tags)) != config.tags:
            try:
                # What somebody else changes meanwhile is not lost: the record must still be as it was read.
                config = client.model_record_store.update_model(config.key, {"tags": tags}, etag=config.etag)
                break
            except EtagMismatchException:
                config = client.model_record_store.get_model(config.key)
    if not emit(lambda: model_data(config)):
        say(f"{visible(config.name)}: {visible(', '.join(config.tags)) or 'no tags'}")


def _uninstalled(
    client: Client, config: AnyModelConfig, files: Files, *, only_told: bool = False, force: bool = False
) -> Removal:
    try:
        path = absolute_path(client, config)
    except ModelkeepError:  # in a models_dir that is no more
        path = config.path
    while True:
        try:
            # What was agreed to is what is done: the record must still be as it was.
            answer = client.model_install.uninstall(
                config.key, files.value, etag=config.etag or "", validate_only=only_told, force=force
            )
        except EtagMismatchException:
            now = client.model_record_store.get_model(config.key)
            if _told(now) != _told(config):
                raise
            config = now  # digests became known, or files were noted as missing
        else:
            return Removal(config, path, answer)


def _told(config: AnyModelConfig) -> dict[str, Any]:
    """What a person was told of a model, and what does not change by itself or by what becomes of another."""
    return config.model_dump(exclude={"etag", "revision", "update_time", "missing_time", "related_keys"})


def _agreed_to_lose(config: AnyModelConfig, type: str, lost: str, *, yes: bool) -> None:
    if not yes and not can_ask():
        raise FieldInvalidException(
            f"As {type}, {config.name} would lose {lost}; nothing was changed. Repeat it with --yes if you "
            "mean it."
        )
    agreed(f"Make {config.name} a model of type {type} and lose {lost}?", [], yes=yes)


def _in_use(held: list[Removal]) -> ModelInUseException:
    leases = [lease for removal in held for lease in removal.answer.leases]
    names = ", ".join(removal.config.name for removal in held)
    return ModelInUseException(
        f"In use, under {counted(len(leases), 'lease')}: {names}. Nothing was removed.",
        metadata={"key": held[0].config.key, "holders": ",".join(leases)},
    )


def _summary(planned: list[Removal]) -> str:
    files = counted(sum(removal.answer.deleted_count for removal in planned), "file")
    room = size(sum(removal.answer.deleted_bytes for removal in planned))
    leases = sum(len(removal.answer.leases) for removal in planned)
    held = f" under {counted(leases, 'lease')}" if leases else ""
    return f"{counted(len(planned), 'model')}{held}, {files}, {room}"
