"""Whether the files of a record are there, and which they are. Only a model's picture is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from modelkeep.exceptions import InvalidModelException
from modelkeep_common.auth import Principal
from modelkeep_common.pictures import MAX_PICTURE_BYTES, problem_of
from modelkeep_common.urls import is_address, shown

from .. import files
from ..domain.draft import stored_path
from ..domain.ports import RecordFile
from ..domain.roots import ModelRoots
from ..domain.system_errors import reading
from ..presence import is_there
from ..probe.readers.listing import list_files
from .root import Root
from .source import Source, text_in

#: Suffixes of pictures, in the order in which they are looked for.
_SUFFIXES = (".webp", ".png", ".jpg", ".jpeg", ".gif")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is.

    Attributes:
        shown: Its absolute path, or the address of one that is nowhere on the disk.
        path: As its record here has it.
        root_id: As its record here has it.
        files: Its files; none if they are gone.
        is_file: It is one file, by what is there, and not a folder.
        is_missing: Its files are gone.
    """

    shown: str
    path: str
    root_id: str = ""
    files: tuple[RecordFile, ...] = ()
    is_file: bool = False
    is_missing: bool = False


def look(source: Source, root: Root, roots: ModelRoots, named_by: Principal) -> Place:
    """Look where a record says that its model is; blocks.

    Raises:
        ForbiddenPathException: It lies outside every root.
        InvalidModelException: It has no path, or there is something that can be no model.
    """
    text = text_in(source.config, "path")
    if not text or "\0" in text:
        raise InvalidModelException(
            f"The record {source.shown_key} of InvokeAI has no path.",
            metadata={"detail": "no path"},
            remedy="Set its path in InvokeAI and import again, or leave it out: the others are not held up.",
        )
    if is_address(text):
        return Place(shown(text), shown(text))
    path = roots.requested(str(root.models_dir / text), "root", named_by)
    real = Path(os.path.realpath(path))  # unlike `resolve` it takes links that lead in a circle
    if roots.is_at_or_above(path) or str(real) == os.path.realpath(root.models_dir) or roots.is_root(real):
        raise InvalidModelException(
            f"{path} is a folder of models, and no model.",
            metadata={"path": str(path), "detail": "a folder of models"},
            remedy="Set the path of the model itself in InvokeAI, and import again.",
        )
    stored = stored_path(
        real if real.is_relative_to(roots.models_dir) else path, roots.models_dir, roots.root_id
    )
    with reading(path):
        there = is_there(path)
        if there is None:
            path.stat()  # raises what keeps it from being told
    if not there:
        return Place(str(path), *stored, is_missing=True)
    if not path.is_dir():
        size, modified = files.file_facts(path)
        return Place(str(path), *stored, (RecordFile(path.name, size, modified),), is_file=True)
    names = list_files(path, lambda one: roots.requested(str(one), "root", named_by)).files
    facts = [(name, *files.file_facts(path / name)) for name in names]
    return Place(str(path), *stored, tuple(RecordFile(*fact) for fact in facts))


def picture_of(source: Source, root: Root, roots: ModelRoots, named_by: Principal) -> bytes:
    """The picture that InvokeAI shows for a model; empty where there is none. Blocks.

    Raises:
        ForbiddenPathException: It lies outside every root.
        InvalidModelException: It is none that a record may have.
    """
    if source.is_legacy or "/" in source.key or "\0" in source.key:
        return b""
    for suffix in _SUFFIXES:
        path = root.pictures / f"{source.key}{suffix}"
        if is_there(path):
            with roots.open(roots.requested(str(path), "root", named_by)) as file:
                image = file.read(MAX_PICTURE_BYTES + 1)
            if problem := problem_of(image):
                raise InvalidModelException(
                    f"The picture {path} {problem}.",
                    metadata={"path": str(path), "detail": problem},
                    remedy="Give the model another picture in InvokeAI, or here by `modelkeep cover set`.",
                )
            return image
    return b""
