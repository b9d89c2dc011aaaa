"""Reading exports: every line is looked at before the first record of it is imported."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Final, NamedTuple

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.record.v1.exports_pb2 import ExportedModel
from modelkeep.records.lines import MAX_LINE, Mark, from_line, in_parts

#: Parts and bytes that one call of ImportModels takes, with some room for what is around them.
_BATCH, _BATCH_BYTES = 100, (3 << 20) - (64 << 10)
#: Suffix of compressed files, and how the content of one begins, whatever it is called.
GZIP_SUFFIX: Final = ".gz"
_GZIP_MAGIC: Final = b"\x1f\x8b"


class Line(NamedTuple):
    """One part of a record, and the number of its line."""

    number: int
    part: ExportedModel


#: Opens an export from its beginning.
Open = Callable[[], AbstractContextManager[Iterable[bytes | str]]]


def opener(source: str | os.PathLike[str] | IO[bytes] | Iterable[str]) -> Open:
    """How an export is opened, each time from its beginning.

    Args:
        source: The path of a file, or a file that can be sought in, compressed by gzip or not; or the lines
            themselves, which are kept in memory.
    """
    if isinstance(source, str | os.PathLike):
        return lambda: _file(Path(source))
    if hasattr(source, "seek"):
        file: IO[bytes] = source  # type: ignore[assignment]  # it can be sought in

        @contextlib.contextmanager
        def rewound() -> Iterator[Iterable[bytes]]:
            with _plain(file) as plain:
                yield _bounded(plain)

        return rewound
    lines = list(source)
    return lambda: contextlib.nullcontext(lines)


def count(open: Open) -> int:
    """How many lines there are.

    Raises:
        FieldInvalidException: One is too long, or cannot be uncompressed.
        OSError: The file cannot be read.
    """
    with open() as lines:
        return sum(1 for _ in _texts(lines))


def check(open: Open) -> None:
    """Look at every line.

    Raises:
        FieldInvalidException: One is no line of an export, or two cannot both be; says which.
        OSError: The file cannot be read.
    """
    keys: dict[str, int] = {}
    places: dict[tuple[str, str], int] = {}
    number = begun = 0
    before: ExportedModel | None = None
    with open() as lines:
        for number, text in enumerate(_texts(lines), 1):
            part = _parsed(number, text)
            if part is Mark.BEGINNING and begun:
                raise _wrong(number, f"is the first of an export, and that of line {begun} has no end")
            if isinstance(part, Mark):
                begun = number if part is Mark.BEGINNING else 0
            if not isinstance(part, ExportedModel):
                continue
            _check_order(number, part, before)
            before = part
            if part.is_continuation:
                continue
            model = part.model
            if model.key and (first := keys.setdefault(model.key, number)) != number:
                raise _wrong(number, f"has the key that line {first} has")
            if model.path and (first := places.setdefault((model.path, model.root_id), number)) != number:
                raise _wrong(number, f"has the path that line {first} has")
    if before is not None and before.is_continued:
        raise _wrong(number, "is the last, and says that its record goes on")
    if begun:
        cut_off = "is the last, and the export has no end: it was cut off. Without line"
        raise _wrong(number, f"{cut_off} {begun} what there is can be imported")


def batches(open: Open) -> Iterator[list[Line]]:
    """The parts of an export that was checked, as many at a time as one call takes."""
    batch: list[Line] = []
    size = 0
    with open() as lines:
        for number, text in enumerate(_texts(lines), 1):
            whole = _parsed(number, text)
            for part in in_parts(whole) if isinstance(whole, ExportedModel) else ():
                part_bytes = part.ByteSize() + 8
                if batch and (len(batch) == _BATCH or size + part_bytes > _BATCH_BYTES):
                    yield batch
                    batch, size = [], 0
                batch.append(Line(number, part))
                size += part_bytes
    if batch:
        yield batch


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Iterable[bytes]]:
    with path.open("rb") as file, _plain(file) as plain:
        yield _bounded(plain)


def _plain(file: IO[bytes]) -> AbstractContextManager[IO[bytes] | gzip.GzipFile]:
    """A file from its beginning, uncompressed; it stays open."""
    file.seek(0)
    is_compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_compressed else contextlib.nullcontext(file)


def _bounded(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """The lines of a file, of which none takes more memory than one may."""
    while line := file.readline(MAX_LINE + 1):
        yield line


def _texts(lines: Iterable[bytes | str]) -> Iterator[bytes | str]:
    number = 0
    found = iter(lines)
    while True:
        number += 1
        try:
            line = next(found)
        except StopIteration:
            return
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _wrong(number, f"cannot be uncompressed: {error}") from None
        if len(line) > MAX_LINE:
            raise _wrong(number, f"is longer than {MAX_LINE:,} bytes")
        yield line


def _parsed(number: int, line: bytes | str) -> ExportedModel | Mark | None:
    """The part that a line has; None for an empty one."""
    try:
        text = line if isinstance(line, str) else line.decode()
        return from_line(text) if text.strip() else None
    except UnicodeDecodeError:
        raise _wrong(number, "is no UTF-8") from None
    except ValueError as error:
        raise _wrong(number, f"is {error}") from None


def _check_order(number: int, part: ExportedModel, before: ExportedModel | None) -> None:
    goes_on = before is not None and before.is_continued
    if part.is_continuation and not (goes_on and before is not None and before.model.key == part.model.key):
        raise _wrong(number, "belongs to a record that the line before it does not have")
    if goes_on and not part.is_continuation:
        raise _wrong(number, "is no part of the record of the line before, which says that it goes on")


def _wrong(number: int, problem: str) -> FieldInvalidException:
    return FieldInvalidException("", violations=[FieldViolation(f"line {number}", problem)])
