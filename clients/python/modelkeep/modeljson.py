"""The JSON files of a model's folder, read within bounds: configs, ``model_index.json``, indexes of shards.

They come from strangers. What is read is one object of bounded size and depth, in which every key stands
once, every number is finite and of bounded length, and every text can be sent in a message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any, Final, NoReturn

from modelkeep.exceptions import InvalidModelException

#: A config is a few KiB; what is larger is none.
MAX_CONFIG_BYTES: Final = 1 << 20
#: An index of shards names every tensor, as headers do.
MAX_INDEX_BYTES: Final = 4 << 20
#: Objects and lists inside each other; published configs have up to five.
MAX_DEPTH: Final = 32
#: Tokenizers write 10^30 for "no limit"; nothing published is longer.
MAX_DIGITS: Final = 40


def read_object(fd: int, path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        fd: Open descriptor of a regular file; its position does not matter and is left alone.
        path: What to call the file in messages.
        limit: Bytes that the file may have.

    Raises:
        InvalidModelException: It is no JSON object, or beyond one of the bounds.
        OSError: It cannot be read.
    """
    text = _read(fd, path, limit)
    try:
        found = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_once,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if b"\\u" in text:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        _bad(path, "no UTF-8, or escapes that are half of a character")
    except RecursionError:
        _bad(path, f"nested deeper than {MAX_DEPTH} levels")
    except ValueError as error:
        _bad(path, f"no JSON: {str(error)[:200]}")
    if not isinstance(found, dict):
        _bad(path, "no JSON object")
    if _deeper_than(found, MAX_DEPTH):
        _bad(path, f"nested deeper than {MAX_DEPTH} levels")
    return found


def _read(fd: int, path: Path, limit: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    while total <= limit and (part := os.pread(fd, limit + 1 - total, total)):
        parts.append(part)
        total += len(part)
    if total > limit:
        _bad(path, f"longer than {limit:,} bytes")
    return b"".join(parts)


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


def _bad(path: Path, detail: str) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} in {path.parent.name}: {detail}.", metadata={"path": str(path), "detail": detail}
    )
