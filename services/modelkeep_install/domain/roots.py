"""The folders that the installer reads and the one that it owns."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    ForbiddenPathException,
    RootMismatchException,
)
from modelkeep_common.auth import Principal
from modelkeep_common.paths import STAGING, AllowedRoots

from .system_errors import no_regular_file, reading


class ModelRoots:
    """``models_dir`` and the import roots.

    Args:
        models_dir: The folder that holds installed models; made absolute and free of links.
        root_id: The id in its marker.
        import_roots: Folders that local models may be taken from.
        for_owner: Further ones, which only the owner of the suite may name.
        data_dir: The suite's data folder, of which only models_dir may be touched.
    """

    def __init__(
        self,
        models_dir: Path,
        root_id: str,
        import_roots: Sequence[Path],
        *,
        data_dir: Path,
        for_owner: Sequence[Path] = (),
    ) -> None:
        self.models_dir = Path(os.path.realpath(models_dir))
        self.root_id = root_id
        own = [self.models_dir]
        self._readable = AllowedRoots(
            [*own, *import_roots],
            data_dir=data_dir,
            models=own,
            for_owner=for_owner,
            setting="import_roots",
        )
        self._owned = AllowedRoots(own, data_dir=data_dir, models=own, setting="models_dir")

    @property
    def import_roots(self) -> tuple[Path, ...]:
        """The folders that local models may be taken from, without links."""
        return self._readable.roots[1:]

    def home(self, key: str) -> Path:
        """The folder of one installed model."""
        return self.models_dir / key

    def home_of(self, path: Path) -> str:
        """The key of the model whose folder in models_dir a path lies in; empty if it is none's."""
        parts = path.relative_to(self.models_dir).parts if path.is_relative_to(self.models_dir) else ()
        return parts[0] if parts and re.fullmatch("[0-9a-f]{32}", parts[0]) else ""

    def staging(self, job_id: int) -> Path:
        """The folder of one job's files before they have their final name."""
        return self.models_dir / STAGING / str(job_id)

    def is_staged(self, path: Path) -> bool:
        """Whether a path lies in a staging folder."""
        return Path(os.path.realpath(path)).is_relative_to(self.models_dir / STAGING)

    def readable(self, path: Path) -> Path:
        """The real path of what may be read.

        Raises:
            ForbiddenPathException: It, or what its links lead to, lies outside every root.
        """
        return self._readable.resolve(path)

    def requested(self, text: str, field: str, named_by: Principal, *, remedy: str = "") -> Path:
        """A path that a caller sent, normalised and allowed to him; ``remedy`` for what is no absolute one.

        Raises:
            FieldInvalidException: It is not absolute.
            ForbiddenPathException: It lies outside every root.
        """
        if not text.startswith("/"):
            problem = "must be an absolute path on the service's host"
            raise FieldInvalidException("", violations=[FieldViolation(field, problem)], remedy=remedy)
        # POSIX keeps two leading slashes apart from one: a second name for the same file
        path = Path(os.path.normpath(f"/{text.lstrip('/')}"))
        self._readable.resolve(path, named_by=named_by)
        return path

    def open(self, path: Path) -> BinaryIO:
        """Opens a regular file beneath a root for reading; links are followed only inside the roots.

        Raises:
            ForbiddenPathException: As :meth:`readable`.
            InvalidModelException: It is no regular file.
            ModelkeepError: It cannot be opened; see ``system_errors``.
        """
        with reading(path):
            # O_NONBLOCK: opening a FIFO without a writer would wait for ever
            descriptor = self._readable.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise no_regular_file(path)
        return os.fdopen(descriptor, "rb", buffering=0)

    def locate(self, path: str, root_id: str) -> Path:
        """Where a record's model is; it may be outside every root.

        Raises:
            RootMismatchException: Its relative path belongs to another models_dir.
        """
        if os.path.isabs(path):
            return Path(os.path.normpath(path))
        if root_id and root_id != self.root_id:
            raise RootMismatchException(
                "The record belongs to another models_dir than the one that is mounted here.",
                metadata={"expected_root_id": root_id, "actual_root_id": self.root_id},
            )
        return Path(os.path.normpath(self.models_dir / path))

    def owns(self, path: Path) -> bool:
        """Whether a path, links followed, lies inside models_dir and not in its staging folders."""
        return self._owned.allows(path) and not self.is_staged(path)

    def unlink(self, path: Path) -> int:
        """Removes one file of a model; of a link the link. Gives its size in bytes.

        Raises:
            ForbiddenPathException: As :meth:`deletable`.
            InvalidModelException: It is a folder, a socket, a pipe or a device.
            OSError: It is not there, or cannot be removed.
        """
        self.deletable(path)
        # through the folder's descriptor: a folder that became a link since the check is not followed
        folder = self._readable.open_beneath(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
                raise no_regular_file(path)
            os.unlink(path.name, dir_fd=folder)
        finally:
            os.close(folder)
        return found.st_size

    def is_at_or_above(self, path: Path) -> bool:
        """Whether models_dir is, or lies in, the folder that a path leads to."""
        return self.models_dir.is_relative_to(os.path.realpath(path))

    def is_root(self, path: Path) -> bool:
        """Whether a folder is a root itself."""
        return path in self._readable.roots

    def deletable(self, path: Path) -> None:
        """Refuses to delete what is not beneath a root, with the folder it is in and what it leads to.

        Raises:
            ForbiddenPathException: As said; also for the marker of models_dir and for staged files.
        """
        self._readable.resolve(path.parent)
        real = self._readable.resolve(path)
        if self.is_staged(path) or real in self._readable.roots or path.name.startswith(".modelkeep-root"):
            raise ForbiddenPathException(
                f"{str(path)!r} is no file of a model.", metadata={"path": str(path)}
            )
