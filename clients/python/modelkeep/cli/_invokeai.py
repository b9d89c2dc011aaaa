"""``modelkeep import-invokeai``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelkeep.cli import _terminal
from modelkeep.cli._asking import DryRun, Yes, agreed, can_ask
from modelkeep.cli._bar import Bar, Standing
from modelkeep.cli._output import as_json, counted, emit, say
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb
from modelkeep.defaults import EXIT_FAILED, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from modelkeep.client import Client, InvokeAIModel, InvokeAIProgress

#: Folders that are named as such that might be allowed.
_MOST_FOLDERS: Final = 4


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    verb(
        app,
        "import-invokeai",
        takes=DATA,
        examples=(
            "modelkeep import-invokeai ~/invokeai --dry-run",
            "modelkeep import-invokeai ~/invokeai",
        ),
    )(import_invokeai)


def import_invokeai(
    root: Annotated[str, typer.Argument(help="Root folder of the InvokeAI, which holds invokeai.yaml.")],
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave models out whose files are gone.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Give records that were changed here InvokeAI's values again.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Register the models of an InvokeAI where they lie, with all that it knows of them.

    Nothing of InvokeAI is moved or changed, and it may run meanwhile. Called again, it goes on where it was
    left, and takes over what InvokeAI has changed since.
    """
    with connect() as client:
        of = _Import(client, root, skip_missing=skip_missing, overwrite=overwrite)
        if not dry_run and not yes and can_ask():
            plan, _ = of.run(validate_only=True, tells=False)
            agreed("Import them?", [*_summary(plan, would=True), *of.advice()], yes=False)
        raise typer.Exit(of.finish(validate_only=dry_run))


class _Import:
    """One import, as it was asked for."""

    def __init__(self, client: Client, root: str, *, skip_missing: bool, overwrite: bool) -> None:
        self._client = client
        self._root = root
        self._skip_missing = skip_missing
        self._overwrite = overwrite
        self._outside: set[str] = set()

    def run(self, *, validate_only: bool, tells: bool) -> tuple[InvokeAIProgress, list[InvokeAIModel]]:
        """Follow it to its end; what was told last, and what became of every record.

        Args:
            validate_only: Only see what would happen.
            tells: Write a line of each record that there is something to say of.
        """
        models: list[InvokeAIModel] = []
        last: InvokeAIProgress | None = None
        self._outside.clear()
        try:
            with Bar().shown() as bar:
                for last in self._client.model_install.import_invokeai(
                    self._root,
                    validate_only=validate_only,
                    skip_missing=self._skip_missing,
                    overwrite=self._overwrite,
                ):
                    models += last.models
                    bar.update(Standing(_standing(last, validate_only=validate_only)))
        except KeyboardInterrupt:
            self._interrupted(last, validate_only=validate_only)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        assert last is not None
        self._outside |= {str(PurePath(one.path).parent) for one in models if _is_outside(one)}
        if tells:
            for line in _lines(models, everything=validate_only):
                say(line)
        return last, models

    def finish(self, *, validate_only: bool) -> int:
        """Import, and tell what became of it; the exit code."""
        from modelkeep.cli._options import chosen

        last, models = self.run(validate_only=validate_only, tells=not chosen().as_data)
        told = emit(
            lambda: {
                "root": as_json(last.root),
                "models": [as_json(one.message) for one in models],
                "counts": last.counts,
            }
        )
        if not told:
            for line in (*_summary(last, would=validate_only), *self.advice()):
                say(line)
        return EXIT_FAILED if last.counts["failed"] else 0

    def advice(self) -> Iterator[str]:
        """How models that may not be read are allowed."""
        if not self._outside:
            return
        folders = sorted(self._outside)[:_MOST_FOLDERS]
        named = shlex.quote(",".join(folders))
        yield "The services may not read from the folders of some. Allow them, and import again:"
        yield f"  MODELKEEP_INSTALL_IMPORT_ROOTS={named} MODELKEEP_LOADER_IMPORT_ROOTS={named} modelkeep up"

    def _interrupted(self, last: InvokeAIProgress | None, *, validate_only: bool) -> None:
        done = "Nothing was changed."
        if last is not None and not validate_only:
            done = f"{counted(last.counts['new'] + last.counts['updated'], 'model')} came along by now."
        _terminal.complain(f"\n{done} Go on: modelkeep import-invokeai {shlex.quote(visible(self._root))}")


def _is_outside(one: InvokeAIModel) -> bool:
    return one.exception is not None and one.exception.metadata.get("setting") == "import_roots"


def _standing(progress: InvokeAIProgress, *, validate_only: bool) -> str:
    doing = "Looking" if validate_only else "Importing"
    done, total = progress.counts["total"], progress.root.model_count
    return f"{doing}: {done:,} of {counted(total, 'model')}, {progress.counts['new']:,} new"


def _lines(models: Sequence[InvokeAIModel], *, everything: bool) -> Iterator[str]:
    for one in models:
        is_new = one.outcome == "new"
        is_told = one.outcome not in ("new", "unchanged") or (is_new and (one.is_missing or one.exception))
        if is_told or (everything and is_new):
            yield _line(one)


def _line(one: InvokeAIModel) -> str:
    kind = "/".join(filter(None, (one.message.base, one.message.type)))
    name = one.name or one.message.invokeai_key
    line = f"{one.outcome.value:<10}  {visible(name)}  {visible(kind)}  {visible(one.path)}"
    if one.is_missing:
        line += "  (its files are gone)"
    if one.is_unknown:
        line += "  (of a kind that this version does not know)"
    if one.outcome == "kept":
        line += f"  (changed here: {', '.join(one.changed_fields)})"
    if one.outcome == "updated":
        line += f"  ({', '.join(one.changed_fields)})"
    if one.exception is not None:
        line += f"  {visible(one.exception.message)} [{one.exception.reason}]"
    return line


def _summary(last: InvokeAIProgress, *, would: bool) -> Iterator[str]:
    counts: Mapping[str, int] = last.counts
    root = last.root
    where = " and ".join(filter(None, (root.database_path, root.models_yaml_path)))
    newer = ", newer than this version knows: what it has was read all the same" if root.is_newer else ""
    schema = visible(root.schema) or "before 3.0"
    yield f"InvokeAI at {visible(root.path)}: {visible(where)} ({schema}{newer})."
    be = "would be" if would else "were"
    parts = [
        f"{counts['new']:,} {be} registered",
        f"{counts['updated']:,} {be} updated" if counts["updated"] else "",
        f"{counts['unchanged']:,} known",
        f"{counts['kept']:,} kept as changed here" if counts["kept"] else "",
        f"{counts['skipped']:,} left out" if counts["skipped"] else "",
        f"{counts['failed']:,} failed" if counts["failed"] else "",
    ]
    text = f"{counted(counts['total'], 'model')}: {', '.join(filter(None, parts))}."
    if counts["kept"]:
        text += " `--overwrite` gives those that were kept InvokeAI's values again."
    if counts["missing"]:
        text += f" The files of {counts['missing']:,} are gone."
    if counts["unknown"]:
        text += f" {counts['unknown']:,} are of a kind that this version does not know."
    yield text
