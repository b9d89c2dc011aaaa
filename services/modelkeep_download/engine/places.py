"""Which destinations and local sources a request may name, checked against the file system. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelkeep.exceptions import FieldInvalidException, FieldViolation, ForbiddenPathException
from modelkeep_common.auth import Principal
from modelkeep_common.file_names import is_invisible
from modelkeep_common.paths import MARKER, STAGING, AllowedRoots
from modelkeep_download.domain.checks import bad_source
from modelkeep_download.domain.names import PLAIN_NAME, is_safe_component
from modelkeep_download.engine import files

#: What InstallService holds in its folder of models while it runs, and leaves there.
_OWNED = f"{MARKER}.install.lock"


@dataclass(frozen=True, slots=True)
class Places:
    """Where downloads may go, and where local sources may lie.

    Installed models are another service's: DownloadService writes among them only into the staging folder
    of an install, which InstallService has made and moves on from there, and takes nothing away.

    Attributes:
        roots: Where downloads may go, the folder of models included.
        sources: Where local sources may lie.
        models_dir: The folder of models, as the settings have it. Another one counts as well where
            InstallService has left its lock.
    """

    roots: AllowedRoots
    sources: AllowedRoots
    models_dir: Path

    def destination(self, text: str, filename: str, *, installs: bool) -> tuple[Path, bool]:
        """The real path of a destination, and whether the file goes into it as a folder.

        Args:
            text: What was asked for.
            filename: The name inside the folder, if one was given.
            installs: Whether the caller may fill the staging folder of an install.

        Raises:
            ForbiddenPathException: Outside the roots, hidden, or among the models.
            FieldInvalidException: No file system, or no careful one, has such a name.
            DestinationExistsException: A file where a folder should be.
        """
        destination = self.roots.resolve(text)
        root = self.root_of(destination)
        with _told_as("destination"):
            existing = next(p for p in (destination, *destination.parents) if files.inode_of(p) is not None)
            is_folder = bool(filename) or text.endswith("/") or destination.is_dir()
            if not existing.is_dir() and existing != destination:
                raise bad_field("destination", f"{existing} is no folder")
        if ".." in text.split("/"):
            raise files.forbidden(destination)
        models = self._models_with(destination)
        if models is not None:
            self._check_staging(models, destination, is_folder=is_folder, allowed=installs)
        self._check_components(destination, root if models is None else models / STAGING)
        if filename and not is_safe_component(filename):
            raise bad_field("filename", PLAIN_NAME)
        if not is_folder and not is_safe_component(destination.name):
            raise bad_field("destination", "must end with a plain file name, or with '/' for a folder")
        if is_folder and existing == destination and not destination.is_dir():
            raise files.destination_exists(destination)
        return destination, is_folder

    def root_of(self, destination: Path) -> Path:
        """The root that a destination lies beneath: the innermost, so that a model's folder is known."""
        holding = [root for root in self.roots.roots if destination.is_relative_to(root)]
        return max(holding, key=lambda root: len(root.parts))

    def local_source(self, text: str, named_by: Principal, *, copy: bool) -> Path:
        """The real path of a file or folder that a job copies or moves.

        Raises:
            ForbiddenPathException: Outside the roots, the service's own, or a move out of the models.
            SourceNotFoundException: There is none.
            FieldInvalidException: Neither file nor folder, not readable, a root itself, or a link to move.
        """
        field = "source.local_path.path"
        path = self.sources.resolve(text, whole=True, named_by=named_by)
        if files.is_staging(path) or path.name == STAGING or path.name.startswith(MARKER):
            raise files.forbidden(path, setting=self.sources.setting)
        with _told_as(field):
            if not path.exists():
                raise files.source_missing(path)
        if not path.is_dir() and not path.is_file():
            raise bad_source("neither a file nor a folder", field)
        if not os.access(path, os.R_OK):
            raise bad_source("cannot be read", field)
        if any(root.is_relative_to(path) for root in self.roots.roots):
            raise bad_source("is one of the service's own roots, or has one in it", field)
        models = self._models_with(path)
        if models is not None and path.is_relative_to(models / STAGING):
            raise files.forbidden(path, setting=self.sources.setting)
        if models is not None and not copy:
            raise _models_own(path, "what lies there is copied, never moved: leave move out")
        if not copy and Path(os.path.normpath(text)).is_symlink():
            raise bad_source(f"is a link, which only copies: name {path}, or leave move out", field)
        if not copy and any(root.is_relative_to(path) for root in self.sources.roots):
            raise bad_source("is an import root and can only be copied", field)
        return path

    def check_copies(self, texts: Iterable[str], named_by: Principal) -> None:
        """Make sure that a job may copy files from there, if they are there; empty ones are none.

        Raises:
            ForbiddenPathException: Outside the roots, or the service's own.
        """
        for text in filter(None, texts):
            path = self.sources.resolve(text, named_by=named_by)
            if files.is_staging(path) or path.name.startswith(MARKER):
                raise files.forbidden(path, setting=self.sources.setting)

    def _models_with(self, path: Path) -> Path | None:
        """The folder of models that a path is, or lies in, by whatever name; None if in none."""
        for folder in (path, *path.parents):
            if folder == self.models_dir or os.path.lexists(folder / _OWNED):
                return folder
        return None

    @staticmethod
    def _check_staging(models: Path, destination: Path, *, is_folder: bool, allowed: bool) -> None:
        """Refuse all among the models but the staging folder of an install, or a file right in it."""
        folder = destination if is_folder else destination.parent
        parts = folder.relative_to(models).parts
        of_install = len(parts) == 2 and parts[0] == STAGING and parts[1].isascii() and parts[1].isdigit()
        if not (of_install and allowed and folder.is_dir()):
            raise _models_own(
                destination, "downloads go elsewhere: take a folder of download_roots, and install from there"
            )

    @staticmethod
    def _check_components(destination: Path, root: Path) -> None:
        for part in destination.relative_to(root).parts:
            if part.startswith("."):
                raise files.forbidden(destination)
            if any(map(is_invisible, part)):
                raise bad_field("destination", "has control characters in the name of a folder")


def _models_own(path: Path, remedy: str) -> ForbiddenPathException:
    return ForbiddenPathException(
        f"{path} lies among the installed models, which are InstallService's; {remedy}",
        metadata={"path": str(path)[:500], "setting": "models_dir", "remedy": remedy},
    )


@contextlib.contextmanager
def _told_as(field: str) -> Iterator[None]:
    """A path that the file system cannot have (a name too long, a loop of links) is a bad field."""
    try:
        yield
    except OSError as error:
        raise bad_field(field, (error.strerror or "cannot be used").lower()) from None


def bad_field(name: str, description: str) -> FieldInvalidException:
    """The error for a field whose value cannot be used."""
    return FieldInvalidException("", violations=[FieldViolation(name, description)])
