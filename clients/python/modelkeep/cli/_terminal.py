"""What a stream can show: how wide it is, whether in colour, and which characters are let through."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TextIO, TypeAlias

from modelkeep.cli import _options

Look: TypeAlias = Literal["bold", "dim", "red", "yellow", "green"]

_CODES: Final[Mapping[str, str]] = {"bold": "1", "dim": "2", "red": "31", "yellow": "33", "green": "32"}
_NAMED: Final = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
#: What steers a terminal, turns the direction of writing, breaks lines or cannot be written: controls,
#: formats, surrogates, and the separators of lines and paragraphs.
_STEERING: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
#: They only join letters, as in emoji and in Persian.
_JOINERS: Final = "\u200c\u200d"
_AS_EMOJI: Final = "\ufe0f"
#: Taken where a terminal does not say how large it is.
_WIDTH: Final = 80
_HEIGHT: Final = 24


class Colour(StrEnum):
    """When to write in colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Terminal:
    """What can be shown on a stream.

    Attributes:
        width: Columns; None where it is no terminal: then nothing is cut off, and tabs separate.
        height: Lines.
        colour: Whether looks may be used.
        moves: Whether what was written can be written over.
        unicode: Whether it takes more than ASCII.
    """

    width: int | None = None
    height: int = _HEIGHT
    colour: bool = False
    moves: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] | None = None) -> Terminal:
        """The terminal behind a stream."""
        environ = os.environ if environ is None else environ
        is_terminal = stream.isatty()
        dumb = environ.get("TERM", "") in ("dumb", "")
        wish = _options.chosen().colour
        plain = dumb or bool(environ.get("NO_COLOR"))
        width, height = _size(stream, environ) if is_terminal else (None, _HEIGHT)
        return cls(
            width=width,
            height=height,
            colour=wish == Colour.ALWAYS or (wish != Colour.NEVER and is_terminal and not plain),
            moves=is_terminal and not dumb,
            unicode="utf" in (getattr(stream, "encoding", "") or "").lower(),
        )

    def look(self, text: str, look: Look | None) -> str:
        """A text in a look, where looks may be used."""
        return f"\x1b[{_CODES[look]}m{text}\x1b[0m" if self.colour and look and text else text

    def shown(self, text: object) -> str:
        """A text as it is shown here: on one line, with nothing that steers or that cannot be written."""
        line = visible(text)
        return line if self.unicode else line.encode("ascii", "backslashreplace").decode("ascii")

    def cut(self, text: str, width: int, *, keep_end: bool = False) -> str:
        """A text of at most so many columns; what is cut off shows."""
        if cells(text) <= width:
            return text
        sign = "…" if self.unicode else "~"
        kept = reversed(text) if keep_end else iter(text)
        out: list[str] = []
        room = width - 1
        for character in kept:
            room -= cells(character)
            if room < 0:
                break
            out.append(character)
        if keep_end:
            return sign + "".join(reversed(out))
        return "".join(out) + sign


def stdout() -> Terminal:
    """Where answers go."""
    return Terminal.of(sys.stdout)


def stderr() -> Terminal:
    """Where everything else goes."""
    return Terminal.of(sys.stderr)


def complain(text: str, look: Look | None = None) -> None:
    """Write a line to stderr."""
    print(stderr().look(text, look), file=sys.stderr, flush=True)


def visible(text: object) -> str:
    """A text from a record or a file on one line: it can neither break a table nor steer the terminal."""
    given = str(text)
    return given if given.isascii() and given.isprintable() else "".join(map(_shown, given))


def steers(character: str) -> bool:
    """Whether a character does something to a terminal other than being shown."""
    return unicodedata.category(character) in _STEERING and character not in _JOINERS


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if character == _AS_EMOJI:
        return 1  # what stands before it is as wide as an emoji then
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _shown(character: str) -> str:
    if not steers(character):
        return character
    number = ord(character)
    if number <= 0xFF:
        return _NAMED.get(character, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def _size(stream: TextIO, environ: Mapping[str, str]) -> tuple[int, int]:
    try:
        found = os.get_terminal_size(stream.fileno())
        width, height = found.columns, found.lines
    except (OSError, ValueError):
        width, height = 0, 0
    named = environ.get("COLUMNS", "")
    if named.isdecimal():
        width = int(named)
    return max(width or _WIDTH, 20), max(height or _HEIGHT, 4)
