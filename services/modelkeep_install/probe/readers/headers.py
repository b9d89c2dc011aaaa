"""The header of a model's file by its path: ``modelkeep.headers``, with the service's way to open files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from modelkeep import headers
from modelkeep.contents import BEGINNING_BYTES, Content, content_of
from modelkeep.headers import Header

from ...domain.system_errors import no_regular_file, reading

#: Opens a file for reading; the service's own also refuses what lies outside the allowed roots.
Opener = Callable[[Path], BinaryIO]


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a FIFO or device is refused in place of waited for.

    Raises:
        InvalidModelException: The path is no regular file.
        ModelkeepError: It cannot be opened; see ``system_errors``.
    """
    with reading(path):
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise no_regular_file(path)
    return os.fdopen(descriptor, "rb", buffering=0)


def read_header(
    path: Path, opener: Opener = open_regular, allowance: headers.Allowance | None = None
) -> Header:
    """Reads and checks the header of one file; see ``modelkeep.headers``.

    Raises:
        InvalidModelException: The file is no safetensors file, or its header is cut off or lies.
        ModelkeepError: It cannot be opened; see ``system_errors``.
    """
    with reading(path), opener(path) as file:
        return headers.read_header(file.fileno(), path, allowance=allowance)


def look(path: Path, opener: Opener = open_regular) -> Content:
    """What the bytes of a file are, by how they begin.

    Raises:
        ModelkeepError: It cannot be opened; see ``system_errors``.
    """
    with reading(path), opener(path) as file:
        return content_of(os.pread(file.fileno(), BEGINNING_BYTES, 0), os.fstat(file.fileno()).st_size)
