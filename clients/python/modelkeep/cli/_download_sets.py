"""``modelkeep downloads add-files``: several files as one download."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer

from modelkeep.cli import _download_limits
from modelkeep.cli._downloads import (
    Detach,
    IntoQueue,
    KeepPartial,
    Labels,
    Priority,
    Start,
    Token,
    downloads_group,
    queue_of,
    submit,
)
from modelkeep.cli._fields import labels
from modelkeep.cli._terminal import visible
from modelkeep.cli._verbs import DATA, verb

if TYPE_CHECKING:
    from modelkeep.client import DownloadFile


def add_to_downloads() -> None:
    """Add the command."""
    verb(
        downloads_group,
        "add-files",
        takes=DATA,
        examples=(
            "modelkeep downloads add-files files.txt modelkeep-data/downloads/tiny-sd",
            "modelkeep downloads add-files - modelkeep-data/downloads/a < files.txt",
        ),
    )(add_files)


def add_files(
    list: Annotated[
        Path,
        typer.Argument(
            help="A file with a line for each: ADDRESS [PATH [SHA256]]; - reads the input. By default PATH "
            "is the end of the address. Empty lines and those that begin with # are passed over.",
            allow_dash=True,
        ),
    ],
    folder: Annotated[
        str, typer.Argument(help="Folder for the files, beneath one of the service's roots; made if missing.")
    ],
    priority: Priority = 10,
    rate: _download_limits.Rate = None,
    queue: IntoQueue = "",
    label: Labels = None,
    token: Token = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace files that are there, once the new ones are checked.")
    ] = False,
    keep_partial: KeepPartial = False,
    start: Start = True,
    detach: Detach = False,
) -> None:
    """Fetch several files as one download. Ctrl-C leaves it running."""
    from modelkeep.client import DownloadJobFiles

    job = DownloadJobFiles(
        files=_files(list),
        destination=Path(folder),
        destination_is_folder=True,
        priority=priority,
        access_token=token,
        labels=labels(label),
        replace_existing=replace,
        preserve_partial_downloads=keep_partial,
        max_bytes_per_second=0 if rate is None else _download_limits.rate_of(rate),
    )
    with queue_of(queue) as jobs:
        submit(jobs, job, start=start, detach=detach)


def _files(path: Path) -> list[DownloadFile]:
    """The files that a list names.

    Raises:
        typer.BadParameter: It cannot be read, names none, or has a line that is no such thing.
    """
    from modelkeep.client import DownloadFile

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no UTF-8"
        raise typer.BadParameter(f"{visible(path)} cannot be read: {why}", param_hint="LIST") from None
    files = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            url, name, sha256, *more = [*words, "", ""][: max(3, len(words))]
            if more:
                raise ValueError
            name = name or unquote(urlsplit(url).path.rpartition("/")[2])
            files.append(DownloadFile(source=url, path=name, expected_sha256=sha256 or None))
        except ValueError:
            raise typer.BadParameter(
                f"line {number} is not ADDRESS [PATH [SHA256]]: {visible(line[:200])}", param_hint="LIST"
            ) from None
    if not files:
        raise typer.BadParameter("names no file", param_hint="LIST")
    return files
