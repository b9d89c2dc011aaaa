"""JSON from strangers, read within bounds, so that it can be sent in a message and written again.

Every key of an object stands once, every number is finite and of bounded length, every text can be UTF-8,
and objects and lists lie in each other so deep and no deeper.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

#: Objects and lists inside each other; published configs have up to five.
MAX_DEPTH: Final = 32
#: Tokenizers write 10^30 for "no limit"; nothing published is longer.
MAX_DIGITS: Final = 40
#: What is said of a text that has no form as bytes.
NO_UTF8: Final = "no UTF-8, or escapes that are half of a character"


def parse_json(text: str) -> Any:
    """The value that a text is.

    Raises:
        ValueError: It is no JSON, or beyond one of the bounds; its text says what, as it goes on after "is".
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=_once,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {str(error)[:200]}") from None
    if "\\u" in text:
        try:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        except UnicodeError:
            raise ValueError(NO_UTF8) from None
    if _deeper_than(found, MAX_DEPTH):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:80]!r} is there twice")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits) if len(digits) <= 4 * MAX_DIGITS else float("inf")
    if not isfinite(value):
        raise ValueError(f"{digits[:40]} is no finite number")
    return value


def _deeper_than(top: object, depth: int) -> bool:
    level: list[object] = [top]
    for _ in range(depth):
        level = [inner for outer in level for inner in _inside(outer)]
    return bool(level)


def _inside(value: object) -> Iterable[object]:
    """The lists and objects in a list or object."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, (dict, list))]
