"""What commands print beside tables: facts, data for programs, and numbers and times for people."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from modelkeep.cli import _terminal
from modelkeep.cli._options import Format, chosen
from modelkeep.cli._terminal import steers, visible

if TYPE_CHECKING:
    from google.protobuf.message import Message

#: The highest number that a job can have.
LAST_ID: Final = (1 << 63) - 1
#: How much of a key a table shows.
KEY_SHOWN: Final = 12


def counted(number: int, noun: str) -> str:
    """A number of things: "1 file", "2 files"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def as_json(message: Message) -> dict[str, Any]:
    """A message in the JSON form of protobuf, with the names of the .proto files and nothing left out."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def emit(value: Callable[[], Any]) -> bool:
    """Print a value if the answer is for a program; answers whether it did."""
    if not chosen().as_data:
        return False
    print_data(value())
    return True


def print_data(value: Any, *, lines: bool = False) -> None:
    """Print a value as JSON or YAML; with `lines` on one line, or as one document, for streams."""
    if chosen().format is Format.YAML:
        import yaml

        plain = not any(map(steers, json.dumps(value, ensure_ascii=False)))
        text = yaml.safe_dump(value, allow_unicode=plain, sort_keys=False, explicit_start=lines).rstrip("\n")
    else:
        text = json_text(value, indent=None if lines else 2)
    print(text, flush=lines)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON in which no character steers a terminal; what it says stays the same."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        json.dumps(c)[1:-1] if steers(c) and c not in "\n\x7f" else "\\u007f" if c == "\x7f" else c
        for c in text
    )


def print_facts(facts: Iterable[tuple[str, object]], *, indent: int = 0) -> None:
    """Print names and values, one a line; what is empty is left out."""
    for line in facts_lines(facts, indent=indent):
        print(line)


def facts_lines(facts: Iterable[tuple[str, object]], *, indent: int = 0) -> list[str]:
    """Names and values as lines for the terminal; what is empty is left out."""
    shown = [(name, str(value)) for name, value in facts if value not in (None, "", [], ())]
    width = max((len(name) for name, _ in shown), default=0)
    margin = " " * indent
    terminal = _terminal.stdout()
    text: list[str] = []
    for name, value in shown:
        lines = [visible(line) for line in value.splitlines()] or [""]
        if terminal.width is not None:
            room = max(20, terminal.width - indent - width - 2)
            lines = [piece for line in lines for piece in wrapped(line, room)]
        title = terminal.look(f"{name + ':':<{width + 1}}", "bold")
        text += [f"{margin}{title} {lines[0]}", *(margin + " " * (width + 2) + line for line in lines[1:])]
    return text


def wrapped(line: str, room: int) -> list[str]:
    """A line as several that are no longer than there is room for; a path or a word stays whole."""
    return textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]


def say(text: str) -> None:
    """Print a line of the answer at once."""
    print(text, flush=True)


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
        return size(job.bytes) if job.bytes else ""
    return f"{size(job.bytes)} of {size(job.total_bytes)}"


def when(seconds: float | None) -> str:
    """A time for people, in the local zone."""
    if not seconds:
        return ""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def lasting(seconds: float) -> str:
    """A length of time for people: "12 s", "5 min", "3 h", "2 d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def away(seconds: float) -> str:
    """What is said while a service does not answer."""
    return f"service away, trying again ({lasting(seconds)})"


def ago(seconds: float | None, now: float) -> str:
    """How long ago a time was: "5 min ago"."""
    if not seconds:
        return ""
    past = now - seconds
    if past < 0:
        return f"in {lasting(-past)}" if past < -1 else "now"
    return "now" if past < 1 else f"{lasting(past)} ago"


def short(enum_name: str, prefix: str) -> str:
    """A value of an enum for people: "INSTALL_STATE_RUNNING" → "running"."""
    name = enum_name.removeprefix(prefix).lower().replace("_", " ")
    return "" if name == "unspecified" else name
