"""The JSON files of a model's folder, read within bounds: configs, ``model_index.json``, indexes of shards.

They come from strangers. What is read is one object of bounded size, as :mod:`modelkeep.jsontext` bounds it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NoReturn

from modelkeep.exceptions import InvalidModelException
from modelkeep.jsontext import NO_UTF8, parse_json

#: A config is a few KiB; what is larger is none.
MAX_CONFIG_BYTES: Final = 1 << 20
#: An index of shards names every tensor, as headers do.
MAX_INDEX_BYTES: Final = 4 << 20


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
        found = parse_json(text.decode("utf-8"))
    except UnicodeError:
        _bad(path, NO_UTF8)
    except ValueError as error:
        _bad(path, str(error))
    if not isinstance(found, dict):
        _bad(path, "no JSON object")
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


def _bad(path: Path, detail: str) -> NoReturn:
    raise InvalidModelException(
        f"{path.name} in {path.parent.name}: {detail}.", metadata={"path": str(path), "detail": detail}
    )
