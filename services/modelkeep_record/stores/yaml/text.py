"""Trees as YAML text, in the form that this service writes by itself.

Every text is written so that any reader of YAML takes it for one, whichever version of YAML it knows.
"""

from __future__ import annotations

import re
from typing import Final

from .tree import Token, Tree

#: Columns that a level stands to the right of the one above.
INDENT: Final = 2

_SAFE: Final = re.compile(r"[^\W_][\w .,/()+@=-]*|[/~_.][\w/.-][\w .,/()+@=-]*")
#: What some reader takes for a number, a date or a time of day.
_NUMBER: Final = re.compile(
    r"[-+]?[0-9._,:]+([eE][-+]?[0-9_]+)?|0[xob][0-9a-fA-F_]+|\d{4}-\d\d?-\d\d?.*|[-+]?\.(inf|nan)",
    re.IGNORECASE,
)
_WORDS: Final = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", "=", "<<"])
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}
_MUST_ESCAPE: Final = re.compile(r'[\\"\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]')
#: What lines of a literal block may not have.
_NOT_LITERAL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def entry_text(name: str, tree: dict[str, Tree]) -> str:
    """An entry at the top of a file; ends with a line break."""
    return "\n".join([f"{single(name)}:", *_pairs(tree, INDENT)]) + "\n"


def single(value: str) -> str:
    """A text or token on one line."""
    return str(value) if isinstance(value, Token) or is_plain(value) else quoted(value)


def is_plain(text: str) -> bool:
    """Whether every reader takes these characters, without quotes, for this text."""
    return (
        len(text) < 1000
        and _SAFE.fullmatch(text) is not None
        and text[-1] != " "
        and _MUST_ESCAPE.search(text) is None
        and text.lower() not in _WORDS
        and _NUMBER.fullmatch(text) is None
    )


def quoted(text: str) -> str:
    """A text in double quotes."""
    return f'"{_MUST_ESCAPE.sub(_escape, text)}"'


def is_literal(text: str) -> bool:
    """Whether a text is best shown line by line, and can be."""
    return (
        "\n" in text.rstrip("\n")
        and not text.endswith("\n\n")
        and text[0] not in " \n"
        and _NOT_LITERAL.search(text) is None
    )


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    number = ord(character)
    return _ESCAPES.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def _pairs(tree: dict[str, Tree], indent: int) -> list[str]:
    lines: list[str] = []
    for name, value in tree.items():
        first, rest = _value(value, indent)
        lines.append(f"{' ' * indent}{single(name)}:{first}")
        lines += rest
    return lines


def _value(value: Tree, indent: int) -> tuple[str, list[str]]:
    """What follows a name's colon on its line, and the lines below."""
    if isinstance(value, str):
        if not isinstance(value, Token) and is_literal(value):
            return " |" if value.endswith("\n") else " |-", _literal(value, indent + INDENT)
        return f" {single(value)}", []
    if isinstance(value, dict):
        return ("", _pairs(value, indent + INDENT)) if value else (" {}", [])
    if not value:
        return " []", []
    return "", [line for item in value for line in _item(item, indent + INDENT)]


def _item(item: Tree, indent: int) -> list[str]:
    """One item of a list."""
    dash = f"{' ' * indent}- "
    if isinstance(item, str):
        return [dash + single(item)]
    assert isinstance(item, dict)
    if not item:
        return [f"{dash}{{}}"]
    first, *rest = _pairs(item, indent + len("- "))
    return [dash + first.lstrip(" "), *rest]


def _literal(text: str, indent: int) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    return [f"{' ' * indent}{line}" if line else "" for line in lines]
