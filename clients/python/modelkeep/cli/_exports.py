"""``modelkeep export``, ``import`` and ``backup``: all records of a store outside of it, and back."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from modelkeep.cli import _select, _terminal, _wanted
from modelkeep.cli._asking import DryRun
from modelkeep.cli._bar import Bar, Standing
from modelkeep.cli._models import listing
from modelkeep.cli._naming import find_model
from modelkeep.cli._options import chosen
from modelkeep.cli._output import as_json, counted, emit, say, size
from modelkeep.cli._places import connect
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, LIST, verb
from modelkeep.defaults import EXIT_FAILED

if TYPE_CHECKING:
    from modelkeep.client import ImportedRecord

#: In place of a file: standard input or output.
_STANDARD: Final = "-"
#: Records that are told one by one.
_MOST_TOLD: Final = 20
#: What becomes of records, in the order in which it is told.
_OUTCOMES: Final = ("created", "replaced", "unchanged", "skipped", "refused")


class Conflict(StrEnum):
    """What becomes of a model that is there already and is not equal."""

    SKIP = "skip"
    REPLACE = "replace"
    FAIL = "fail"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    verb(
        app,
        takes={**DATA, "filter": LIST["filter"]},
        examples=(
            "modelkeep export models.jsonl.gz",
            "modelkeep export --type lora | wc -l   # two lines more than there are LoRAs",
            "modelkeep export before.jsonl && modelkeep edit sketch base=sdxl",
        ),
    )(export)
    verb(
        app,
        "import",
        takes=DATA,
        examples=(
            "modelkeep import models.jsonl.gz --dry-run",
            "modelkeep import models.jsonl --on-conflict replace",
            "modelkeep --context old export | modelkeep --context new import -",
        ),
    )(import_models)
    verb(
        app,
        takes=DATA,
        examples=("modelkeep backup", "modelkeep backup before-the-move"),
    )(backup)


def export(
    file: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|-]", help="Where to; compressed if it ends in .gz; -: standard output."
        ),
    ] = _STANDARD,
    type: _wanted.Types = None,
    base: _wanted.Bases = None,
    format: _wanted.Formats = None,
    tag: _wanted.Tags = None,
    label: _wanted.Labels = None,
    related_to: _wanted.RelatedTo = None,
    missing: _wanted.Missing = None,
    covers: Annotated[
        bool, typer.Option("--covers/--no-covers", help="Whether the models' pictures go along.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write the records of all models as lines of JSON, with their files' names, sizes and hashes.

    All lines are of one moment, though writes go on, and lose nothing of a record; the first tells the
    format, the last that nothing was cut off. `modelkeep import` reads them. The models themselves stay where
    they are.
    """
    wanted = _wanted.filters(type=type, base=base, format=format, tag=tag, label=label)
    if not file or os.path.isdir(file):
        raise typer.BadParameter(f"{visible(file) or 'a file without a name'} is no file: name one, or -")
    if not force and os.path.lexists(file) and not _is_no_regular_file(file):
        raise typer.BadParameter(f"{visible(file)} is there already: name another file, or say --force")
    passes = _passing()
    with connect() as client:
        store = client.model_record_store
        if related_to is not None:
            wanted["related_to"] = find_model(client, related_to).key
        everything = not any(wanted.values()) and missing is None
        total = store.store_info().model_count if everything else 0
        with _written(file) as out, _bar(file) as bar:
            models = 0
            for line in filter(passes, store.export(**wanted, missing=missing, with_covers=covers)):
                out.write(line.encode() + b"\n")
                models += _begins_record(line)
                bar.update(Standing("Exporting", models, total, noun="model"))
    if file == _STANDARD:
        return
    length = 0 if _is_no_regular_file(file) else os.path.getsize(file)
    if not emit(lambda: {"file": file, "models": models, "size_bytes": length}):
        told = f", {size(length)}" if length else ""
        say(f"Exported {counted(models, 'model')} to {visible(file)}{told}.")


def import_models(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="What `modelkeep export` wrote; -: standard input.")
    ],
    on_conflict: Annotated[
        Conflict,
        typer.Option(
            help="What becomes of a model that is there already and is not equal: skip leaves it, replace "
            "replaces it, fail ends before anything is imported.",
            case_sensitive=False,
        ),
    ] = Conflict.SKIP,
    dry_run: DryRun = False,
) -> None:
    """Take over the records of an export: with their keys, hashes and times, as they are.

    Every line is looked at first, and where one is no good nothing is imported. Importing the same again
    changes nothing. No model's files are copied: where they are not at their path, the model is missing. Exit
    code 1 if a record is refused.
    """
    from modelkeep.exceptions import ModelkeepError
    from modelkeep.records import reading

    counts: Counter[str] = Counter()
    told: list[ImportedRecord] = []
    with _read(file) as source, connect() as client, Bar().shown() as bar:
        total = reading.count(reading.opener(source))
        if not total:
            raise typer.BadParameter(f"{visible(file)} is empty: an export has two lines at least")
        store = client.model_record_store
        try:
            for record in store.import_(source, on_conflict=on_conflict.value, validate_only=dry_run):
                counts[record.outcome] += 1
                if record.reason:
                    told.append(record)
                bar.update(Standing("Importing", record.line, total, noun="line"))
        except (ModelkeepError, KeyboardInterrupt):
            if counts and not dry_run and not chosen().as_data:
                _terminal.complain(f"Before it ended: {_summary(counts)}.")
            raise
    if not emit(lambda: _data(counts, told, dry_run=dry_run)):
        for record in told[:_MOST_TOLD]:
            _terminal.complain(visible(_described(record)))
        if len(told) > _MOST_TOLD:
            _terminal.complain(f"and {len(told) - _MOST_TOLD:,} more; --json tells all")
        say(f"{'Would be imported' if dry_run else 'Imported'}: {_summary(counts)}.")
    if counts["refused"]:
        raise typer.Exit(EXIT_FAILED)


def backup(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="What the copy is called; the time in UTC by default.")
    ] = "",
) -> None:
    """Copy the store of the records, while it goes on, into the folder backups beside it.

    That is record/backups/ of the data folder, unless `modelkeep up --model-config-db` has it elsewhere.

    The copy has all that the store keeps, also the history that watches go on from. To put it back: stop the
    suite, and follow "Back-ups" in docs/operations.md.
    """
    with connect() as client:
        made = client.model_record_store.back_up(name)
    if not emit(lambda: as_json(made)):
        say(f"Copied to {visible(made.path)}, {size(made.size_bytes)}, revision {made.revision:,}.")


def _passing() -> Callable[[str], bool]:
    """Tells whether a line of an export passes ``--filter``; further parts of a record go with the first."""
    from modelkeep.configs.wire import from_model
    from modelkeep.records.lines import Mark, from_line

    if not chosen().filters:
        return lambda line: True
    passes = _select.passing(listing())
    goes_along = True

    def test(line: str) -> bool:
        nonlocal goes_along
        part = from_line(line)
        if isinstance(part, Mark):
            return True
        if not part.is_continuation:
            goes_along = passes(from_model(part.model))
        return goes_along

    return test


def _begins_record(line: str) -> bool:
    """Whether a line that an export wrote has a record, or the first part of one."""
    # In a text a quotation mark has a backslash before it.
    return not line.startswith('{"format": ') and '"is_continuation": true' not in line


@contextlib.contextmanager
def _bar(file: str) -> Iterator[Bar]:
    """Where the lines go to the terminal, nothing is drawn between them."""
    if file == _STANDARD and sys.stdout.isatty():
        yield Bar()
        return
    with Bar().shown() as bar:
        yield bar


@contextlib.contextmanager
def _written(file: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Where an export is written. A file takes its name once it is whole, and is for this user alone.

    A link keeps leading where it leads, and a device or a pipe is written into, never replaced.
    """
    if file == _STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if _is_no_regular_file(file):
        try:
            with open(file, "wb") as device:
                yield device
        except OSError as error:
            raise _cannot_be_written(file, error) from None
        return
    from modelkeep.records.reading import GZIP_SUFFIX

    path = Path(os.path.realpath(file))
    try:
        scratch = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115  it is renamed
    except OSError as error:
        raise _cannot_be_written(file, error) from None
    try:
        with scratch:
            if path.suffix == GZIP_SUFFIX:
                with gzip.GzipFile(filename="", fileobj=scratch, mode="wb", mtime=0) as packed:
                    yield packed
            else:
                yield scratch
            scratch.flush()
            os.fsync(scratch.fileno())
        os.replace(scratch.name, path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise _cannot_be_written(file, error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch.name)


def _is_no_regular_file(file: str) -> bool:
    """Whether there is something that is written into as it is, such as a device or a pipe."""
    return os.path.exists(file) and not os.path.isfile(file)


def _cannot_be_written(file: str, error: OSError) -> typer.BadParameter:
    return typer.BadParameter(f"{visible(file)} cannot be written: {error.strerror}")


@contextlib.contextmanager
def _read(file: str) -> Iterator[str | IO[bytes]]:
    """What is imported, to be read several times."""
    if file != _STANDARD:
        try:
            with open(file, "rb"):
                pass
        except OSError as error:
            raise typer.BadParameter(f"{visible(file)} cannot be read: {error.strerror}") from None
        yield file
        return
    with tempfile.TemporaryFile() as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        yield kept


def _summary(counts: Counter[str]) -> str:
    told = [f"{counts[outcome]:,} {outcome}" for outcome in _OUTCOMES if counts[outcome]]
    return ", ".join(told) or "nothing"


def _described(record: ImportedRecord) -> str:
    named = record.name or record.key or "a record without a key"
    return f"line {record.line}: {named}: {record.outcome}: {record.message} [{record.reason}]"


def _data(counts: Counter[str], told: list[ImportedRecord], *, dry_run: bool) -> dict[str, Any]:
    """For programs: how many came to what, and each about which there is something to say."""
    return {
        "dry_run": dry_run,
        **{outcome: counts[outcome] for outcome in _OUTCOMES},
        "records": [record._asdict() for record in told],
    }
