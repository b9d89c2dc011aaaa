"""Several files as one download: what a request may ask for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep_common.hash_forms import sha256_of
from modelkeep_common.pages import no_repository, refuse_page
from modelkeep_common.urls import origin_of, parse_url
from modelkeep_download.domain.job import FileSpec
from modelkeep_download.domain.names import PLAIN_NAME, is_safe_component, place_of

#: Addresses and paths of a set together: a message that tells all of it keeps below 4 MiB.
MAX_TEXT_BYTES: Final = 2 << 20
_MAX_PATH_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class AskedFile:
    """One file of several, as it came. Its repr shows no secrets."""

    url: str = field(repr=False)
    path: str
    expected_sha256: str = ""
    size: int | None = None
    local_copy: str = ""


def checked_files(asked: Sequence[AskedFile], *, has_token: bool) -> tuple[FileSpec, ...]:
    """The files of a request.

    Args:
        asked: What it names.
        has_token: Whether it brings an access token.

    Raises:
        FieldInvalidException, NotAModelFileException: One of them cannot be had so.
    """
    if not asked:
        raise _bad("source.files.files", "must name one file or more")
    if sum(len(file.url.encode()) + len(file.path.encode()) for file in asked) > MAX_TEXT_BYTES:
        raise _bad("source.files.files", f"must have at most {MAX_TEXT_BYTES:,} bytes of addresses and paths")
    files = tuple(_checked(f"source.files.files[{at}]", file) for at, file in enumerate(asked))
    _check_apart(files)
    if has_token:
        check_one_origin(files)
    return files


def check_one_origin(files: Iterable[FileSpec]) -> None:
    """Make sure that a token may go to all of the files.

    Raises:
        FieldInvalidException: They are of several hosts.
    """
    origins = {origin_of(file.source) for file in files}
    if len(origins) > 1:
        raise FieldInvalidException(
            "",
            violations=[FieldViolation("access_token", "must be for one host; these files are of several")],
            remedy="Make one download of the files of each host.",
        )


def _checked(field: str, file: AskedFile) -> FileSpec:
    no_repository(file.url, f"{field}.url")
    parsed = parse_url(file.url, f"{field}.url")
    if parsed.has_secret:
        raise FieldInvalidException(
            "",
            violations=[FieldViolation(f"{field}.url", "must have no secrets in it: it is stored")],
            remedy="Give what it needs as access_token, or make it a download of its own.",
        )
    refuse_page(parsed.url)
    if len(file.path.encode()) > _MAX_PATH_BYTES:
        raise _bad(f"{field}.path", f"must have at most {_MAX_PATH_BYTES:,} bytes as UTF-8")
    if not all(map(is_safe_component, file.path.split("/"))):
        raise _bad(f"{field}.path", f'must be names with "/" between; each {PLAIN_NAME}')
    if file.size is not None and file.size < 0:
        raise _bad(f"{field}.size_bytes", "must be 0 or more")
    expected = sha256_of(file.expected_sha256, f"{field}.expected_sha256")
    if file.local_copy and not expected:
        raise _bad(f"{field}.local_copy", "takes expected_sha256, which tells whether it is the file")
    return FileSpec(parsed.url, file.path, expected, file.size, file.local_copy)


def _check_apart(files: Sequence[FileSpec]) -> None:
    """Make sure that the files can lie beside each other on every common file system."""
    paths = [PurePosixPath(place_of(file.path)) for file in files]
    folders = {folder for path in paths for folder in path.parents}
    seen: set[PurePosixPath] = set()
    for at, path in enumerate(paths):
        if path in seen:
            raise _bad(f"source.files.files[{at}].path", "is another file's, too (in any case)")
        if path in folders:
            raise _bad(f"source.files.files[{at}].path", "is a folder of another file's path, too")
        seen.add(path)


def _bad(name: str, description: str) -> FieldInvalidException:
    return FieldInvalidException("", violations=[FieldViolation(name, description)])
