"""What commands print: tables for people, the API's JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

#: Control characters, written out.
_CONTROL = {n: f"\\x{n:02x}" for n in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROL |= {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
#: Narrower than this a table leaves columns out; a terminal that is breaks the lines instead.
_LEAST_WIDTH = 80
#: The highest number that a job can have.
LAST_ID = (1 << 63) - 1

#: The option that every reading command has.
Json = Annotated[bool, typer.Option("--json", help="Print JSON with the field names of the API.")]


def visible(text: object) -> str:
    """A text from a record or a file on one line: it can neither break a table nor steer the terminal."""
    return str(text).translate(_CONTROL)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 file", "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_json(message: Message) -> dict[str, Any]:
    """A message in the JSON form of protobuf, with the names of the .proto files and nothing left out."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_json(value: Any, *, lines: bool = False) -> None:
    """Print a value; with `lines` on one line, for streams."""
    print(json.dumps(value, ensure_ascii=False, indent=None if lines else 2), flush=lines)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under titles; a sentence if there are none.

    Without a terminal the columns are separated by tabs and nothing is cut off.
    """
    cells = [["" if cell is None else visible(cell) for cell in row] for row in rows]
    if not cells:
        typer.echo(empty, err=True)
    elif not sys.stdout.isatty():
        for row in [titles, *cells]:
            print("\t".join(row))
    else:
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in titles:
            # A key is to be copied, so it is never cut off.
            whole = title.upper() in ("KEY", "ID")
            table.add_column(title, no_wrap=whole, overflow="fold")
        for row in cells:
            table.add_row(*row)
        terminal = console()
        terminal.width = max(terminal.width, _LEAST_WIDTH)
        terminal.print(table)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; what is empty is left out."""
    shown = [(name, str(value)) for name, value in facts if value not in (None, "", [], ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        lines = [visible(line) for line in value.splitlines()]
        print(f"{name + ':':<{width + 1}} " + ("\n" + " " * (width + 2)).join(lines))


def print_pruned(count: int, noun: str, json: bool) -> None:
    """Say how many jobs were forgotten."""
    if json:
        print_json({"pruned_count": str(count)})
    else:
        typer.echo(f"Forgot {counted(count, noun)}.")


def console(*, stderr: bool = False) -> Console:
    """A console that takes text as it is."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False)


def size(count: int) -> str:
    """Bytes for people: "4.2 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def progress(job: Any) -> str:
    """Bytes done of bytes in total, for people."""
    if not job.total_bytes:
        return ""
    return f"{size(job.bytes)} of {size(job.total_bytes)}"


def when(seconds: float | None) -> str:
    """A time for people, in the local zone."""
    if not seconds:
        return ""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def short(enum_name: str, prefix: str) -> str:
    """A value of an enum for people: "INSTALL_STATE_RUNNING" → "running"."""
    name = enum_name.removeprefix(prefix).lower().replace("_", " ")
    return "" if name == "unspecified" else name
