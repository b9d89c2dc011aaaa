"""Files of models, opened beneath the allowed roots and read within bounds."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from modelkeep.contents import BEGINNING_BYTES, PICKLE_SUFFIXES, Kind, content_of
from modelkeep.exceptions import InvalidModelException
from modelkeep.gguf import is_gguf, read_gguf
from modelkeep.headers import Allowance, Header, read_header
from modelkeep.modeljson import MAX_CONFIG_BYTES, read_object
from modelkeep.pickles import read_pickled, read_stored
from modelkeep.torchzip import is_zip
from modelkeep_common.paths import AllowedRoots
from modelkeep_loader.domain.found import Ground
from modelkeep_loader.domain.listing import Listing


class Files:
    """Opens and reads them.

    Args:
        roots: Everything that may be read.
    """

    def __init__(self, roots: AllowedRoots) -> None:
        self.roots = roots

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[int]:
        """Open a regular file for reading.

        Raises:
            InvalidModelException: It is none.
            ForbiddenPathException, OSError: As :meth:`AllowedRoots.open_beneath` says.
        """
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever
        fd = self.roots.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidModelException(
                    f"{path.name} is not a regular file.",
                    metadata={"path": str(path), "detail": "not a regular file"},
                    remedy="Put the model's file in its place, or install the model anew.",
                )
            yield fd
        finally:
            os.close(fd)

    def status(self, path: Path) -> os.stat_result:
        """A regular file's status."""
        with self.open(path) as fd:
            return os.fstat(fd)

    def header(self, path: Path, allowance: Allowance | None = None) -> tuple[Header, os.stat_result]:
        """A weight file's header and status, both of one descriptor."""
        with self.open(path) as fd:
            status = os.fstat(fd)
            if is_gguf(fd):
                return read_gguf(fd, path, allowance=allowance), status
            if is_zip(fd):
                header = read_pickled(fd, path, allowance=allowance)
            else:
                header = read_header(fd, path, allowance=allowance)
        header.check_lendable()
        return header, status

    def check_pickle(self, path: Path, called: Path | None = None) -> None:
        """Look through a file that is named as a pickle. One that is safetensors by its bytes is none.

        Args:
            path: The file.
            called: What to call it in messages, where that is not its path.

        Raises:
            UnsafeFormatException: It is a pickle of more than tensors, or one that cannot be followed.
            InvalidModelException: It is not whole.
        """
        if path.suffix.lower() not in PICKLE_SUFFIXES and called is None:
            return
        with self.open(path) as fd:
            if content_of(os.pread(fd, BEGINNING_BYTES, 0)).kind is not Kind.SAFETENSORS:
                read_stored(fd, called if called is not None else path)

    def json(
        self, folder: Path, name: str, listing: Listing, limit: int = MAX_CONFIG_BYTES
    ) -> dict[str, Any]:
        """The object in a JSON file, which must be one of the model's and the one that its record has."""
        path = folder / name
        with self.open(path) as fd:
            listing.require(name, path)
            value = read_object(fd, path, limit)
            listing.check(name, path, fd)
        return value


def single_file(files: Files, ground: Ground) -> tuple[str, Path]:
    """A model that is one file: its name, and where that leads.

    Raises:
        FileNotFoundError: It is not there.
        UnsafeFormatException: It is a pickle of more than tensors.
        InvalidModelException: It is not one of the model's, or not whole.
    """
    place = ground.place
    if not place.exists():
        raise FileNotFoundError(2, "missing", str(place))
    files.check_pickle(place)
    # By the name that the record has it under, also where a link leads elsewhere (a cache of blobs).
    name = os.path.basename(ground.name)
    ground.listing.require(name, place)
    return name, place


def listed(folder: Path, listing: Listing) -> set[str]:
    """Names in a folder that belong to the model."""
    return {entry.name for entry in os.scandir(folder) if listing.has(entry.name)}


def pickle_among(names: Collection[str]) -> str:
    """A file that is named as weights and may run code, if the names have one and no other weights."""
    if any(name.endswith(".safetensors") for name in names):
        return ""
    return min((name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES), default="")
