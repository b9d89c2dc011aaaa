"""What files a model's folder holds, and what lies among them that is none."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from modelkeep.exceptions import InvalidModelException

from ...domain.system_errors import cannot_read, reading

#: More files than any model has: a folder of them is a whole collection, or a mistake.
MAX_FILES = 10_000
#: Hidden files and folders too, which are not listed and take their time all the same.
_MAX_ENTRIES = 10 * MAX_FILES
_MAX_DEPTH = 8

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a link to a folder",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder's content by relative path with ``/``, sorted.

    Attributes:
        files: Its files and their sizes in bytes.
        others: What is no part of a model, and what it is: pipes, sockets, devices, links to folders.
    """

    files: dict[str, int] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def list_files(folder: Path, check: Callable[[Path], object] = lambda path: None) -> Listing:
    """Everything under a folder.

    Links to files count as what they lead to (caches are made of them); links to folders are not entered.
    Hidden files and folders (``.git``, ``.cache``) are no part of a model.

    Raises:
        InvalidModelException: More or deeper than any model, or a file that cannot be looked at.
    """
    files: dict[str, int] = {}
    others: dict[str, str] = {}
    entries = 0

    def unreadable(error: OSError) -> None:
        raise cannot_read(Path(os.fsdecode(error.filename or folder)), error) from error

    for current, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(current)
        check(here)
        entries += len(folders) + len(names)
        if entries > _MAX_ENTRIES:
            raise _no_model(folder, f"more than {_MAX_ENTRIES:,} files and folders")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                others[_relative(here / name, folder)] = _KINDS[stat.S_IFDIR]
        if folders and len(here.relative_to(folder).parts) >= _MAX_DEPTH:
            raise _no_model(folder, f"folders more than {_MAX_DEPTH} deep")
        for name in names:
            if name.startswith("."):
                continue
            file = here / name
            relative = _relative(file, folder)
            with reading(file):
                status = file.lstat()
            if stat.S_ISLNK(status.st_mode):  # what is no link lies where its folder lies
                check(file)
                with reading(file):
                    status = file.stat()
            if stat.S_ISREG(status.st_mode):
                files[relative] = status.st_size
            else:
                others[relative] = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
            if len(files) > MAX_FILES:
                raise _no_model(folder, f"more than {MAX_FILES:,} files")
    return Listing(dict(sorted(files.items())), dict(sorted(others.items())))


def _relative(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise InvalidModelException(
            f"{folder} holds a file whose name is no UTF-8: {relative!a}. Rename or remove it.",
            metadata={"path": str(folder), "detail": "file name is no UTF-8"},
            remedy="Rename or remove it.",
        ) from error
    return relative


def _no_model(folder: Path, has: str) -> InvalidModelException:
    return InvalidModelException(
        f"{folder} has {has}, as no model does. Name the folder of one model.",
        metadata={"path": str(folder), "detail": has},
        remedy="Name the folder of one model.",
    )
