"""Where a component lies on disk: from a record to class, configuration and weight files.

Everything here reads files, and nothing of what they say is trusted: paths stay beneath the allowed
roots, also through links; only listed classes and safetensors files are taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    InvalidModelException,
    RootMismatchException,
    SubmodelRequiredException,
    UnsafeFormatException,
)
from modelkeep.headers import Header, read_header
from modelkeep.modeljson import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, read_object
from modelkeep.worker.classes import ALLOWED
from modelkeep_common.paths import AllowedRoots
from modelkeep_loader.domain import ComponentRef, signature_of
from modelkeep_loader.domain_records import Record
from modelkeep_loader.helperwire import MAX_DESCRIPTORS

_STEMS = ("diffusion_pytorch_model", "model")
#: What says which files a component's shards are; also of a variant.
INDEX_NAMES: Final = "*.safetensors.index*.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


@dataclass(slots=True)
class Found:
    """A component's files on disk, before they are identified.

    Attributes:
        library, class_name: What builds the module.
        config: Its configuration; None where the weights have to tell it.
        files: Path relative to the model's folder, and where that leads.
        location: What to tell people: the model's folder, or its file.
        overrides: Entries of the configuration that the record says otherwise.
        in_record: Whether the record lists the files.
    """

    library: str
    class_name: str
    config: dict[str, Any] | None
    files: list[tuple[str, Path]]
    location: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    in_record: bool = True


class Finder:
    """Finds the files of components.

    Args:
        models_dir: The folder that relative paths are relative to.
        root_id: Its id; asked anew each time, since the folder may be mounted later than the loader
            starts. None if it has none.
        roots: Everything that may be read.
    """

    def __init__(self, models_dir: Path, root_id: Callable[[], str | None], roots: AllowedRoots) -> None:
        self.models_dir = models_dir
        self._root_id = root_id
        self._roots = roots

    def locate(self, record: Record, path: str) -> Path:
        """Where a path that a record names leads.

        Raises:
            RootMismatchException: The record's root is not the folder that is mounted here.
            ForbiddenPathException: It is outside every allowed root.
        """
        root_id = record.root_id
        if not os.path.isabs(path) and root_id and root_id != (actual := self._root_id() or ""):
            raise RootMismatchException(
                f"The record of {record.name!r} belongs to the models folder {root_id}, and the one "
                f"mounted here at {self.models_dir} is {actual or 'none'}.",
                metadata={"expected_root_id": root_id, "actual_root_id": actual},
            )
        return self._roots.resolve(path, base=self.models_dir)

    def find(self, ref: ComponentRef, record: Record, place: Path) -> Found:
        """A component's files, of a model that lies at a place.

        Raises:
            FileNotFoundError, OSError: A file is missing, or cannot be read.
            ModelkeepError: See :meth:`modelkeep_loader.domain_plan.Planner.plan`.
        """
        if record.type == "main":
            return self._find_submodel(ref, record, place)
        if ref.submodel and ref.submodel != record.type:
            raise FieldInvalidException(
                f"{record.name!r} is no main model: it has no submodels.",
                violations=[
                    FieldViolation("components.submodel", f"must be unset for a {record.type} model")
                ],
            )
        return self._find_single(record, place)

    def _find_submodel(self, ref: ComponentRef, record: Record, place: Path) -> Found:
        index = self._read_json(place / "model_index.json") if place.is_dir() else {}
        if not ref.submodel:
            available = sorted(k for k, v in index.items() if isinstance(v, list) and k[:1] != "_" and any(v))
            raise SubmodelRequiredException(
                f"{record.name!r} is a main model: say which component, such as vae or unet.",
                metadata={"key": record.key, "available": ",".join(available)},
            )
        if ref.submodel == "vae" and record.vae:
            other = self.locate(record, record.vae)
            found = self._find_single(record, other)
            if found.class_name != "AutoencoderKL":
                raise InvalidModelException(
                    f"What the record of {record.name!r} names as its vae is a {found.class_name}.",
                    metadata={"path": str(other), "detail": f"class {found.class_name}"},
                )
            found.in_record = False
            return found
        if not place.is_dir():
            if not place.exists():
                raise FileNotFoundError(2, "missing", str(place))
            raise InvalidModelException(
                f"{record.name!r} is a checkpoint in one file; only diffusers folders can be loaded.",
                metadata={"path": str(place), "detail": "single-file main model"},
            )
        entry = index.get(ref.submodel)
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(e, str) for e in entry):
            raise InvalidModelException(
                f"{record.name!r} has no component {ref.submodel!r}; its model_index.json names none.",
                metadata={"path": str(place), "detail": f"no component {ref.submodel}"},
            )
        found = self._find_folder(record, place, ref.submodel, entry[0], entry[1])
        found.location = place
        # A configuration need not name it: then the class's own default is meant.
        if record.upcast_attention and found.class_name == "UNet2DConditionModel":
            found.overrides["upcast_attention"] = True
        return found

    def _find_single(self, record: Record, place: Path) -> Found:
        if place.is_dir():
            return self._find_folder(record, place, "", "", "")
        if not place.exists():
            raise FileNotFoundError(2, "missing", str(place))
        if record.type not in ("vae", "main"):
            raise InvalidModelException(
                f"{record.name!r} is a {record.type} in one file, which cannot be loaded.",
                metadata={"path": str(place), "detail": f"single-file {record.type}"},
            )
        if place.suffix.lower() in _PICKLES:
            raise _unsafe(place)
        # By the name that the record has it under, also where a link leads elsewhere (a cache of blobs).
        name = os.path.basename(record.path)
        return Found("diffusers", "AutoencoderKL", None, [(name, place)], place)

    def _find_folder(
        self, record: Record, place: Path, submodel: str, library: str, class_name: str
    ) -> Found:
        folder = self._roots.resolve(place / submodel)
        if class_name:
            # Before anything is looked for: a tokenizer or scheduler has no weights to look for.
            _check_class(library, class_name, folder)
        config = self._read_json(folder / "config.json")
        if not class_name:
            if isinstance(name := config.get("_class_name"), str):
                library, class_name = "diffusers", name
            elif isinstance(names := config.get("architectures"), list) and len(names) == 1:
                library, class_name = "transformers", str(names[0])
            else:
                raise InvalidModelException(
                    f"The config.json of {record.name!r} does not say which class it is for.",
                    metadata={"path": str(folder), "detail": "no class"},
                )
        _check_class(library, class_name, folder)
        # Names as the record has them, also where links lead elsewhere (a cache of blobs).
        files = [
            (f"{submodel}/{n}".lstrip("/"), self._roots.resolve(folder / n)) for n in self._weights(folder)
        ]
        return Found(library, class_name, config, files, folder)

    def _weights(self, folder: Path) -> list[str]:
        names = {entry.name for entry in os.scandir(folder)}
        for stem in _STEMS:
            whole, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
            variant = re.compile(
                rf"{stem}\.([A-Za-z0-9_]+\.safetensors|safetensors\.index\.[A-Za-z0-9_]+\.json)"
            )
            variants = sorted(filter(variant.fullmatch, names), key=lambda n: (".fp16." not in n, n))
            for name in (whole, index, *variants):
                if name in names:
                    return [name] if name.endswith(".safetensors") else self._shards(folder, name)
        if pickles := sorted(n for n in names if Path(n).suffix.lower() in _PICKLES):
            raise _unsafe(folder / pickles[0])
        raise FileNotFoundError(2, "missing", str(folder / f"{_STEMS[0]}.safetensors"))

    def _shards(self, folder: Path, index: str) -> list[str]:
        shards = self._read_json(folder / index, MAX_INDEX_BYTES).get("weight_map")
        named = list(shards.values()) if isinstance(shards, dict) else []
        if not named or not all(isinstance(n, str) and "/" not in n for n in named):
            raise InvalidModelException(
                f"The index of {folder.name} does not list files.",
                metadata={"path": str(folder), "detail": "bad index"},
            )
        if len(listed := set(named)) > MAX_DESCRIPTORS:
            raise InvalidModelException(
                f"{folder.name} is in {len(listed)} files; at most {MAX_DESCRIPTORS} can be loaded.",
                metadata={"path": str(folder), "detail": f"{len(listed)} shards"},
            )
        return sorted(listed)

    def read_header(self, path: Path) -> tuple[Header, str, os.stat_result]:
        """A weight file's header, signature and status, all of one descriptor."""
        with self._open(path) as fd:
            status = os.fstat(fd)
            header = read_header(fd, path)
        header.check_lendable()
        return header, signature_of(status), status

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[int]:
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever
        fd = self._roots.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidModelException(
                    f"{path.name} is not a regular file.",
                    metadata={"path": str(path), "detail": "not a regular file"},
                )
            yield fd
        finally:
            os.close(fd)

    def _read_json(self, path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
        with self._open(path) as fd:
            return read_object(fd, path, limit)


def _check_class(library: str, class_name: str, folder: Path) -> None:
    if (library, class_name) not in ALLOWED:
        raise InvalidModelException(
            f"{class_name} of {library} is not among the classes that may be loaded.",
            metadata={"path": str(folder), "detail": f"class {class_name}"},
        )


def _unsafe(path: Path) -> UnsafeFormatException:
    return UnsafeFormatException(
        f"{path.name} is a pickle, which may run code when it is read; only safetensors files are loaded.",
        metadata={"path": str(path), "format": path.suffix.lstrip(".")},
    )
