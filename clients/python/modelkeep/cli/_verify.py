"""``modelkeep verify``: whether models' files are what their records say, as far as this host sees them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from modelkeep.cli import _complete
from modelkeep.cli._bar import Bar, Standing
from modelkeep.cli._models import absolute_path
from modelkeep.cli._naming import find_model
from modelkeep.cli._output import counted, emit, say
from modelkeep.cli._places import connect, is_here
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb
from modelkeep.defaults import EXIT_FAILED, EXIT_OK
from modelkeep.exceptions import WrongHostException

if TYPE_CHECKING:
    from modelkeep.client import Client
    from modelkeep.configs import AnyModelConfig

_CHUNK: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one model.

    Attributes:
        config: Its record.
        path: Where it should lie.
        files: How many files its record lists.
        hashed: How many of them were read and compared by SHA-256.
        wrong: What is not as the record says: file and why.
    """

    config: AnyModelConfig
    path: str
    files: int
    hashed: int
    wrong: tuple[tuple[str, str], ...]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    verb(
        app,
        takes=DATA,
        examples=(
            "modelkeep verify tiny-sd",
            "modelkeep verify --all --quick",
            "modelkeep verify --all --json",
        ),
    )(verify)


def verify(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Models: names, name:base, or keys.", autocompletion=_complete.models),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes alone; read nothing.")] = False,
) -> None:
    """Compare models' files with their records: there, of the same size, with the same SHA-256.

    Reads the files on this host, so it works where they lie. Files whose SHA-256 the record does not have are
    compared by size; the answer says how many were read. Exit code 1 if anything is not as the record says.
    """
    if bool(model) == every:
        raise typer.BadParameter("name one model or more, or say --all")
    with connect() as client, Bar().shown() as bar:
        if not is_here(client.server_info("install")):
            raise WrongHostException("The suite runs on another host, and files are read on this one.")
        configs = (
            client.model_record_store.list_models()
            if every
            else [find_model(client, one) for one in model or ()]
        )
        found = [_looked_at(client, config, bar, quick=quick) for config in configs]
    wrong = [finding for finding in found if finding.wrong]
    if not emit(lambda: {"models": [_data(finding) for finding in found]}):
        for finding in found:
            _say(finding)
        if len(found) > 1:
            say(f"{counted(len(found), 'model')}, {len(wrong)} not as recorded.")
    raise typer.Exit(EXIT_FAILED if wrong else EXIT_OK)


def _looked_at(client: Client, config: AnyModelConfig, bar: Bar, *, quick: bool) -> Finding:
    files = client.model_record_store.list_files(config.key)
    path = absolute_path(client, config)
    from modelkeep.values import is_url

    if is_url(path):
        return Finding(config, path, 0, 0, ())  # somebody else serves it: there is nothing to compare
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    if not os.path.lexists(path):
        return Finding(config, path, len(files), 0, ((path, "is not there"),))
    wrong: list[tuple[str, str]] = []
    hashed = 0
    for file in files:
        at = folder / file.path
        try:
            size = at.stat().st_size
            if size != file.size_bytes:
                wrong.append((file.path, f"has {size} bytes, not {file.size_bytes}"))
            elif file.sha256 and not quick:
                hashed += 1
                if _sha256(at, size, f"{visible(config.name)}: reading", bar) != file.sha256:
                    wrong.append((file.path, "has another SHA-256"))
        except OSError as error:
            wrong.append((file.path, (error.strerror or str(error)).lower()))
    return Finding(config, path, len(files), hashed, tuple(wrong))


def _sha256(path: Path, size: int, text: str, bar: Bar) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        done = 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            bar.update(Standing(text, done, size, file=path.name))
    return digest.hexdigest()


def _say(finding: Finding) -> None:
    name = visible(finding.config.name)
    if not finding.wrong:
        read = f"{finding.hashed} of {counted(finding.files, 'file')} compared by SHA-256"
        others = ", the others by size" if finding.hashed < finding.files else ""
        say(f"{name}: as recorded ({read}{others})")
        return
    say(f"{name}: not as recorded")
    for file, why in finding.wrong:
        say(f"  {visible(file)} {visible(why)}")


def _data(finding: Finding) -> dict[str, object]:
    return {
        "key": finding.config.key,
        "name": finding.config.name,
        "path": finding.path,
        "file_count": str(finding.files),
        "hashed_count": str(finding.hashed),
        "wrong": [{"path": file, "why": why} for file, why in finding.wrong],
    }
