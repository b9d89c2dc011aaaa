"""A model's folder: its configs, and the headers of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from modelkeep.contents import PICKLE_SUFFIXES, TENSOR_SUFFIXES
from modelkeep.exceptions import InvalidModelException, UnsafeFormatException
from modelkeep.headers import Allowance, Header
from modelkeep.modeljson import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, read_object
from modelkeep.quantised import survey
from modelkeep.worker.classconfig import checked_config
from modelkeep.worker.classes import ALLOWED as LENDABLE_CLASSES

from ...domain.system_errors import reading
from .headers import Opener, read_header
from .listing import Listing

#: Names listed in one error.
_MAX_LISTED = 10

#: Weights that are no pickles.
_NO_PICKLES = TENSOR_SUFFIXES | {".gguf", ".onnx"}
#: ``model.safetensors.index.json``, and of a variant ``model.safetensors.index.fp16.json``.
_SHARD_INDEX = re.compile(r"\.safetensors\.index(\.\w+)?\.json$")


def unsafe(path: Path, shown: str = "") -> UnsafeFormatException:
    """The refusal of a pickle file; ``shown`` is what to call it in place of its name."""
    suffix = path.suffix.lower()
    return UnsafeFormatException(
        f"{shown or path.name} is a pickle, which may run code when it is read: convert it to safetensors "
        "first.",
        metadata={"path": str(path), "format": suffix if suffix in PICKLE_SUFFIXES else "pickle"},
    )


def lone_pickle(names: Iterable[str]) -> str:
    """The first pickle of weights that are pickles alone; "" where there are others, or none."""
    names = list(names)
    if any(PurePosixPath(name).suffix.lower() in _NO_PICKLES for name in names):
        return ""
    return next((name for name in names if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES), "")


class Folder:
    """One model folder: its files by relative path, what else lies in it, and readers through the opener."""

    def __init__(self, path: Path, listing: Listing, opener: Opener) -> None:
        self.path = path
        self.files = listing.files
        self.others = listing.others
        self._opener = opener
        self._allowance = Allowance()

    def config(self, relative: str, limit: int = MAX_CONFIG_BYTES) -> Mapping[str, Any] | None:
        """A JSON object of the folder; None if there is no such file.

        Raises:
            InvalidModelException: It is there, and is no JSON object, or beyond the reader's bounds.
        """
        if relative not in self.files:
            return None
        path = self.path / relative
        with reading(path), self._opener(path) as file:
            return read_object(file.fileno(), path, limit)

    def check_config(self, component: str, library: object, class_name: object) -> None:
        """What a component's config asks for is within reason, if its class is one that can be lent.

        Raises:
            InvalidModelException: It is not.
        """
        relative = f"{component}/config.json".lstrip("/")
        config = self.config(relative)
        if config is not None and (str(library), str(class_name)) in LENDABLE_CLASSES:
            checked_config(str(class_name), config, self.path / relative)

    def check_shards(self) -> None:
        """Every shard that an index names must lie beside it.

        Raises:
            InvalidModelException: Shards are missing (the text names them), or the index is broken.
        """
        for name in filter(_SHARD_INDEX.search, self.files):
            weight_map = (self.config(name, MAX_INDEX_BYTES) or {}).get("weight_map")
            shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
            if not shards or not all(isinstance(shard, str) for shard in shards):
                raise self.invalid(name, "no weight_map from tensors to files")
            wanted = sorted(set(shards))
            outside = [shard for shard in wanted if shard in ("", ".", "..") or "/" in shard or "\\" in shard]
            if outside:
                raise self.invalid(name, f"no plain file names: {listed([repr(shard) for shard in outside])}")
            missing = [shard for shard in wanted if str(PurePosixPath(name).parent / shard) not in self.files]
            if missing:
                raise self.invalid(
                    name,
                    f"{len(missing)} of its {len(wanted)} shards are not there: {listed(missing)}; "
                    "fetch the missing files, then install again",
                )

    def weights(self, component: str) -> list[Header]:
        """Headers of a component's safetensors files (its shards, and its variants such as fp16).

        Raises:
            UnsafeFormatException: The only weights there are pickles.
            InvalidModelException: A file is damaged, holds what cannot be lent, or there is none.
        """
        inside = [name for name in self.files if folder_of(name) == component]
        tensors = sorted(name for name in inside if name.endswith(".safetensors"))
        if not tensors and (pickle := lone_pickle(inside)):
            raise unsafe(self.path / pickle, pickle)
        if not tensors:
            raise self.invalid(component, f"no safetensors weights in this folder{self.beside(component)}")
        headers = [read_header(self.path / name, self._opener, self._allowance) for name in tensors]
        for header in headers:
            header.check_lendable()
        # What the loader would refuse is refused before it is installed.
        every = (tensor for header in headers for tensor in header.tensors)
        survey(every, Path(tensors[0] if tensors else component))
        return headers

    def beside(self, relative: str) -> str:
        """What lies there that is no file or folder of the model, to end a sentence; "" if nothing does."""
        found = [
            f"{name} is {what}"
            for name, what in self.others.items()
            if name == relative or name.startswith(f"{relative}/" if relative else "")
        ]
        return (
            f" ({listed(found)}, which is no part of a model: put the folder or file itself there)"
            if found
            else ""
        )

    def invalid(self, relative: str, detail: str) -> InvalidModelException:
        where = f"{relative} in {self.path.name}" if relative else self.path.name
        return InvalidModelException(
            f"{where}: {detail}.",
            metadata={"path": str(self.path / relative), "detail": detail},
            remedy="Fetch what is missing or damaged anew, or name the folder of one model.",
        )


def shortened(value: object) -> str:
    """What a config says, short enough to be quoted."""
    said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return said if len(said) <= 200 else f"{said[:200]}…"


def listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    first = [shortened(name) for name in names[:_MAX_LISTED]]
    return ", ".join(first) + (f" and {len(names) - len(first):,} more" if len(names) > len(first) else "")


def folder_of(relative: str) -> str:
    """The folder that a file of the model lies in; empty for the model's own."""
    parent = str(PurePosixPath(relative).parent)
    return "" if parent == "." else parent
