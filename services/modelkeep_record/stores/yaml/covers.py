"""The pictures of a file's records, as files in a folder beside it.

Each has its SHA-256 for a name, which its record tells: so a picture that takes the place of another has
another name, and who reads finds one or the other, whole. A person may look at them, and take one away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from modelkeep.exceptions import FieldInvalidException
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.pictures import MAX_PICTURE_BYTES

from ...domain.covers import Cover

_ENDINGS: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}
_TEMPORARY: Final = "."


def folder_beside(path: Path) -> Path:
    """Where the pictures of a file's records are."""
    return path.with_name(f"{path.name}.covers")


def digest_of(model: Model) -> str:
    """What the picture of a record is called; "" if it has none."""
    return model.cover_image.sha256


class Covers:
    """The pictures beside a file.

    Args:
        folder: Where they are; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, sha256: str) -> Cover | None:
        """A picture; None if it is not there, or no longer what it was."""
        for path in self._paths(sha256):
            with contextlib.suppress(OSError, FieldInvalidException), open(path, "rb") as file:
                cover = Cover.of(file.read(MAX_PICTURE_BYTES + 1))
                if cover.sha256 == sha256:
                    return cover
        return None

    def keep(self, covers: Iterable[Cover]) -> list[str]:
        """Write pictures, durably.

        Returns:
            What those are called that were not there before.

        Raises:
            OSError: One cannot be written; none of them was.
        """
        new: list[str] = []
        try:
            for cover in covers:
                if self.read(cover.sha256) is None:
                    new.append(cover.sha256)
                    self._write(cover)
        except BaseException:
            self.drop(new)
            raise
        if new:
            self._sync()
        return new

    def copy_to(self, folder: Path, digests: Iterable[str]) -> bool:
        """Put pictures into another folder, which is made if need be; without room for them, where links go.

        Returns:
            Whether all of them were here.

        Raises:
            OSError: One cannot be written.
        """
        found = {digest: self._path(digest) for digest in digests}
        if found:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in filter(None, found.values()):
            to = folder / path.name
            try:
                # A picture is never written to again: its name is its content.
                os.link(path, to)
            except FileExistsError:
                pass
            except FileNotFoundError:
                return False
            except OSError:  # a file system without links
                shutil.copyfile(path, to)
        return None not in found.values()

    def drop(self, digests: Collection[str]) -> None:
        """Take pictures away; one that cannot be stays, and does no harm."""
        for digest in digests:
            for path in self._paths(digest):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path | None:
        """Where a picture is."""
        return next((path for path in self._paths(sha256) if path.exists()), None)

    def _paths(self, sha256: str) -> list[Path]:
        # What a person wrote into the file is no path.
        if not sha256.isalnum():
            return []
        return [self._folder / f"{sha256}{ending}" for ending in _ENDINGS.values()]

    def _write(self, cover: Cover) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY, suffix=".tmp")
        try:
            with open(descriptor, "wb") as file:
                file.write(cover.image)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._folder / f"{cover.sha256}{_ENDINGS[cover.media_type]}")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
