"""Objects without weights, made in the worker from the files that the loader hands over."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.manifest import Manifest
from modelkeep.worker.objectclasses import OBJECT_FILES, OBJECTS, resolve_object
from modelkeep.worker.shell import quiet


def build_object(manifest: Manifest, files: Mapping[str, torch.Tensor]) -> Any:
    """A tokenizer, a scheduler, an image processor: as its library's from_pretrained makes it.

    Args:
        manifest: Its class, and the settings that go before those of the files.
        files: Name → bytes.

    Raises:
        InvalidModelException: The class is not on the list, or cannot be made of these files.
    """
    cls = resolve_object(manifest.library, manifest.class_name)
    what = OBJECTS[manifest.library, manifest.class_name]
    settings = dict(manifest.config)
    if what == "scheduler":
        known = inspect.signature(cls.__init__).parameters
        settings = {name: value for name, value in settings.items() if name in known}
    elif what == "processor":
        # It makes its parts by classes that the files name; by none that the files bring along.
        settings |= {"trust_remote_code": False}
    with tempfile.TemporaryDirectory(prefix="modelkeep-") as folder, quiet():
        for name in OBJECT_FILES[what]:
            if name in files:
                _write(Path(folder) / name, files[name])
        try:
            return cls.from_pretrained(folder, local_files_only=True, **settings)
        except Exception as error:  # the libraries raise all sorts for files that do not fit
            detail = f"{type(error).__name__}: {error}"[:400].replace(folder, "its folder")
            raise InvalidModelException(
                f"The {manifest.class_name} cannot be built from its files: {detail}",
                metadata={"detail": detail},
                remedy="Fetch its files anew, all of one model.",
            ) from error


def _write(path: Path, data: torch.Tensor) -> None:
    content: Any = data.numpy()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(memoryview(content))
