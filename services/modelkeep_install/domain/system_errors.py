"""What the operating system refuses, as the suite's errors: a reason, and what to do about it.

::

    reading   nothing there        SOURCE_NOT_FOUND     writing   no room              DISK_FULL
              no right             FORBIDDEN_PATH                 no right, read-only  FORBIDDEN_PATH
              anything else        INVALID_MODEL                  a name it cannot take INVALID_MODEL
                                                                  something in the way DESTINATION_EXISTS
                                                                  anything else        as it is: INTERNAL
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from modelkeep.exceptions import (
    DestinationExistsException,
    DiskFullException,
    ForbiddenPathException,
    InvalidModelException,
    ModelkeepError,
    SourceNotFoundException,
)

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: EFBIG: the file system, or a limit of the process, takes no file of this size.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})
_IN_THE_WAY = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR})


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around what reads a file or folder of a model.

    Raises:
        SourceNotFoundException, ForbiddenPathException, InvalidModelException: See the module's text.
    """
    try:
        yield
    except OSError as error:
        raise cannot_read(path, error) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what puts files into ``models_dir``.

    Raises:
        DiskFullException, ForbiddenPathException, InvalidModelException, DestinationExistsException: See
            the module's text.
        OSError: What only an operator can tell more about.
    """
    try:
        yield
    except OSError as error:
        translated = _cannot_write(path, error)
        if translated is None:
            raise
        raise translated from error


def cannot_read(path: Path, error: OSError) -> ModelkeepError:
    """The error of a file or folder of a model that cannot be read."""
    detail = _said(error)
    if error.errno in _ABSENT:
        what = f"{path} is a link to nothing." if os.path.islink(path) else f"There is nothing at {path}."
        return SourceNotFoundException(what, metadata={"source": str(path), "path": str(path)})
    if error.errno in _NO_RIGHT:
        remedy = "Let the user that runs InstallService read it, then try again."
        return ForbiddenPathException(
            f"{path} cannot be read: {detail}. {remedy}",
            metadata={"path": str(path), "setting": "", "detail": detail, "remedy": remedy},
        )
    return InvalidModelException(
        f"{path} cannot be read: {detail}.",
        metadata={"path": str(path), "detail": detail},
        remedy="Put a file there that can be read, then install again.",
    )


def no_regular_file(path: Path) -> InvalidModelException:
    """The error of a pipe, a device or a folder in place of a file."""
    return InvalidModelException(
        f"{path} is not a regular file.",
        metadata={"path": str(path), "detail": "no regular file"},
        remedy="Name a safetensors file, or the folder of one model.",
    )


def _cannot_write(path: Path, error: OSError) -> ModelkeepError | None:
    detail = _said(error)
    if error.errno in _NO_ROOM:
        return DiskFullException(
            f"The file system of {path} has no room for the model ({detail}): free some, then install again.",
            metadata={"path": str(path)},
        )
    if error.errno in _NO_RIGHT:
        remedy = "Let the user that runs InstallService write there, then install again."
        return ForbiddenPathException(
            f"{path} cannot be written: {detail}. {remedy}",
            metadata={"path": str(path), "setting": "models_dir", "detail": detail, "remedy": remedy},
        )
    if error.errno in _BAD_NAME:
        return InvalidModelException(
            f"{path.name!r} cannot be the name of an installed file: {detail}. "
            "Rename it, then install again.",
            metadata={"path": str(path), "detail": detail},
            remedy="Rename it, then install again.",
        )
    if error.errno in _IN_THE_WAY:
        return DestinationExistsException(
            f"Something else is at {path}: move it away, then install again.", metadata={"path": str(path)}
        )
    return None


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__
