"""``modelkeep edit``, ``rm`` and ``tag``: changing and removing models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from modelkeep.cli import _complete, _table
from modelkeep.cli._asking import DryRun, Yes, agreed
from modelkeep.cli._fields import assignments
from modelkeep.cli._listing import Column, Listing, size_column
from modelkeep.cli._models import absolute_path, facts_of, model_data
from modelkeep.cli._naming import Model, Models, find_key, find_model
from modelkeep.cli._output import counted, emit, print_facts, say, size
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, group, verb
from modelkeep.exceptions import ModelkeepError, UnavailableException

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig

_tags = group("Put tags on models, and take them off; without a command, list them.")

#: An answer names no more deleted files than this.
_NAMED_FILES: Final = 1000


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
        goes: Whether files are deleted.
        files: How many files it has.
        bytes: What they come to.
        leases: How many leases hold it; None if the loader does not say.
    """

    config: AnyModelConfig
    path: str
    goes: bool
    files: int
    bytes: int
    leases: int | None

    @property
    def line(self) -> str:
        """For people."""
        what = f"{counted(self.files, 'file')}, {size(self.bytes)}"
        fate = f"deletes {what}" if self.goes else f"keeps {what}"
        held = "leases not known" if self.leases is None else counted(self.leases, "lease")
        kind = f"{self.config.model_type}, {self.config.base_model}"
        return f"  {self.config.name} ({kind}): {fate}, {held}, {self.path}"

    @property
    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "key": self.config.key,
            "name": self.config.name,
            "path": self.path,
            "deleted_count": str(self.files if self.goes else 0),
            "deleted_bytes": str(self.bytes if self.goes else 0),
            "lease_count": self.leases,
        }


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep edit tiny-sd name=my-sd description='for tests'",
            'modelkeep edit sketch \'tags=["ink", "paper"]\' trigger_phrases=',
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
    _tags.callback()(tag)
    verb(_tags, takes=DATA, examples=("modelkeep tag add sketch ink paper",))(add)
    verb(_tags, "rm", takes=DATA, examples=("modelkeep tag rm sketch paper",))(remove)
    verb(_tags, "ls", takes=LIST, examples=("modelkeep tag ls", "modelkeep tag ls sketch"))(list_tags)


def edit(
    model: Model,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="FIELD=VALUE...", help='Such as name=new, description=, tags=\'["a", "b"]\'.'),
    ],
) -> None:
    """Change fields of a model's record; an empty value clears one."""
    values = assignments(changes)
    with connect() as client:
        config = client.model_record_store.update_model(find_key(client, model), values)
    if not emit(lambda: model_data(config)):
        print_facts(facts_of(config))


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
        planned = [_planned(client, config, files) for config in found.values()]
        if dry_run:
            if not emit(lambda: {"would_remove": [removal.data for removal in planned]}):
                say(f"Would remove {_summary(planned)}:")
                for removal in planned:
                    say(visible(removal.line))
            return
        agreed(f"Remove {_summary(planned)}?", [removal.line for removal in planned], yes=yes)
        removed = [(removal, _remove(client, removal.config.key, files)) for removal in planned]
    answers = [{"key": removal.config.key, "deleted_paths": paths} for removal, paths in removed]
    if not emit(lambda: answers[0] if len(answers) == 1 else {"removed": answers}):
        for removal, paths in removed:
            least = "at least " if len(paths) >= _NAMED_FILES else ""
            freed = f"deleted {least}{counted(len(paths), 'file')}, {size(removal.bytes)}"
            what = freed if paths else "its files stay where they are"
            say(f"Removed {visible(removal.config.name)} ({removal.config.key}); {what}.")


def tag(ctx: typer.Context) -> None:
    """Put tags on models, and take them off; without a command, list them."""
    if ctx.invoked_subcommand is None:
        list_tags()


def add(
    model: Model,
    tags: Annotated[list[str], typer.Argument(help="Tags.", autocompletion=_complete.tags)],
) -> None:
    """Put tags on a model."""
    _retag(model, lambda present: [*present, *(new for new in tags if new not in present)])


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
    with connect() as client:
        configs = [find_model(client, model)] if model else client.model_record_store.list_models()
    by_tag: dict[str, list[AnyModelConfig]] = {}
    for config in configs:
        for one in config.tags:
            by_tag.setdefault(one, []).append(config)
    rows = sorted(by_tag.items(), key=lambda row: row[0].casefold())
    tag_listing: Listing[tuple[str, list[AnyModelConfig]]] = Listing(
        "tag",
        "tags",
        (
            Column("TAG", lambda row: row[0], cut="end"),
            Column("MODELS", lambda row: len(row[1]), right=True, order=lambda row: len(row[1])),
            size_column(lambda row: sum(config.size_bytes for config in row[1]), drop=1),
        ),
        key=lambda row: row[0],
        name=lambda row: row[0],
        data=lambda row: {"tag": row[0], "keys": [config.key for config in row[1]]},
        filters={"tag": lambda row: (row[0],)},
    )
    _table.show(tag_listing, rows, empty="There are no tags; `modelkeep tag add MODEL TAG` makes one.")


def _retag(model: str, change: Any) -> None:
    with connect() as client:
        config = find_model(client, model)
        tags = change(config.tags)
        if tags != config.tags:
            # What somebody else changes meanwhile is not lost: the record must still be as it was read.
            config = client.model_record_store.update_model(config.key, {"tags": tags}, etag=config.etag)
    if not emit(lambda: model_data(config)):
        say(f"{visible(config.name)}: {visible(', '.join(config.tags)) or 'no tags'}")


def _planned(client: Client, config: AnyModelConfig, files: Files) -> Removal:
    listed = client.model_record_store.list_files(config.key)
    try:
        path = absolute_path(client, config)
    except ModelkeepError:
        path = config.path
    try:
        leases = len(client.model_loader.leases(config.key))
    except UnavailableException:  # a suite without a loader lends nothing
        leases = None
    return Removal(
        config,
        path,
        goes=files is Files.ANY or (files is Files.OWNED and not Path(config.path).is_absolute()),
        files=len(listed),
        bytes=sum(file.size_bytes for file in listed),
        leases=leases,
    )


def _remove(client: Client, key: str, files: Files) -> list[str]:
    if files is Files.KEEP:
        client.model_install.unregister(key)
        return []
    remove = (
        client.model_install.delete if files is Files.OWNED else client.model_install.unconditionally_delete
    )
    return [str(path) for path in remove(key)]


def _summary(planned: list[Removal]) -> str:
    gone = [removal for removal in planned if removal.goes]
    files = counted(sum(removal.files for removal in gone), "file")
    leases = sum(removal.leases or 0 for removal in planned)
    held = f" under {counted(leases, 'lease')}" if leases else ""
    return f"{counted(len(planned), 'model')}{held}, {files}, {size(sum(removal.bytes for removal in gone))}"
