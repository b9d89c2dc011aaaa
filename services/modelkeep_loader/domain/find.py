"""Where a component lies on disk: from a record to class, configuration and weight files.

Everything here reads files, and nothing of what they say is trusted: paths stay beneath the allowed
roots, also through links; only listed classes and safetensors files are taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from modelkeep.contents import BEGINNING_BYTES, PICKLE_SUFFIXES, Kind, content_of
from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    InvalidModelException,
    ModelkeepError,
    ModelNotFoundException,
    RootMismatchException,
    SubmodelRequiredException,
    UnknownSubmodelException,
    UnsafeFormatException,
)
from modelkeep.headers import Allowance, Header, read_header
from modelkeep.modeljson import MAX_CONFIG_BYTES, MAX_INDEX_BYTES, read_object
from modelkeep.taxonomy import ModelFormat, SubModelType
from modelkeep.worker.classconfig import checked_config
from modelkeep.worker.classes import ALLOWED
from modelkeep_common.paths import AllowedRoots
from modelkeep_convert.request import MAX_FILES
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.listing import Listing
from modelkeep_loader.domain.records import FileFacts, Record

_MOST_NAMES: Final = 64
_STEMS = ("diffusion_pytorch_model", "model")
#: What says which files a component's shards are; also of a variant.
INDEX_NAMES: Final = "*.safetensors.index*.json"
#: Formats of records whose weights are numbers with scales beside them.
_QUANTISED: Final = frozenset(
    {
        ModelFormat.BnbQuantizedInt8b,
        ModelFormat.BnbQuantizedNf4b,
        ModelFormat.GGUFQuantized,
        ModelFormat.SDNQQuantized,
    }
)


@dataclass(slots=True)
class Found:
    """A component's files on disk, before they are identified.

    Attributes:
        library, class_name: What builds the module.
        config: Its configuration; None where the weights have to tell it.
        files: Name in the listing, and where that leads.
        location: What to tell people: the model's folder, or its file.
        listing: The files of the model that they belong to.
        overrides: Entries of the configuration that the record says otherwise.
    """

    library: str
    class_name: str
    config: dict[str, Any] | None
    files: list[tuple[str, Path]]
    location: Path
    listing: Listing
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a model's files are looked for.

    Attributes:
        name: Path as a record names it; its last part is the name of a single file.
        place: Where that leads.
        listing: The files that belong to the model.
    """

    name: str
    place: Path
    listing: Listing


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

    def names_of(self, path: str) -> list[str]:
        """What a record may have as its path if this path is its file, its folder, or inside that."""
        names = [path]
        if path.startswith(inside := f"{self.models_dir}/"):
            names.append(path.removeprefix(inside))
        for name in names[:]:
            names += [str(parent) for parent in PurePath(name).parents if parent.name]
        return names[:_MOST_NAMES]

    def ground(
        self, record: Record, path: str, owner: Record | None, files: Mapping[str, FileFacts]
    ) -> Ground:
        """Where to look for the files of a model, or of the VAE that a record names instead of its own.

        A folder without a list of files is taken as it is where its owner keeps it. Below models_dir the
        suite's services put files, so there a record has to say which are the model's.

        Args:
            record: The model that is asked for.
            path: The path, as a record names it.
            owner: The record that the path belongs to; None: no record has it.
            files: That record's files.

        Raises:
            RootMismatchException, ForbiddenPathException: See :meth:`locate`.
            InvalidModelException: A folder below models_dir without a list of files.
        """
        place = self.locate(record, path)
        if owner is not None and files:
            inner = os.path.relpath(self.models_dir / path, self.models_dir / owner.path)
            below = "" if inner == "." else f"{inner}/" if place.is_dir() else inner[: inner.rfind("/") + 1]
            return Ground(path, place, Listing(owner.name, files, below))
        if place.is_dir() and place.is_relative_to(os.path.realpath(self.models_dir)):
            raise InvalidModelException(
                f"No record lists the files of {path!r}, and what lies in a folder of the models folder is "
                "lent only if one does.",
                metadata={"path": str(place), "detail": "no list of files"},
                remedy="Install the model, or have an admin list its files with UpdateModel.",
            )
        return Ground(path, place, Listing(record.name, None))

    def find(self, ref: ComponentRef, record: Record, ground: Ground, vae: Ground | None) -> Found:
        """A component's files.

        Args:
            ref: The component.
            record: The model.
            ground: The model's own files.
            vae: Those of the VAE that the record names instead of its own, if it does and one is asked for.

        Raises:
            FileNotFoundError, OSError: A file is missing, or cannot be read.
            ModelkeepError: See :meth:`modelkeep_loader.domain.plan.Planner.plan`.
        """
        if record.type == "main":
            return self._find_submodel(ref, record, ground, vae)
        if ref.submodel and ref.submodel != record.type:
            raise FieldInvalidException(
                f"{record.name!r} is no main model: it has no submodels.",
                violations=[
                    FieldViolation("components.submodel", f"must be unset for a {record.type} model")
                ],
            )
        return self._find_single(record, ground)

    def _find_submodel(self, ref: ComponentRef, record: Record, ground: Ground, vae: Ground | None) -> Found:
        place = ground.place
        if vae is not None:
            found = self._find_single(record, vae)
            if found.class_name != "AutoencoderKL":
                raise InvalidModelException(
                    f"What the record of {record.name!r} names as its vae is a {found.class_name}.",
                    metadata={"path": str(vae.place), "detail": f"class {found.class_name}"},
                    remedy="Set the record's vae to an AutoencoderKL, or empty it: then its own is lent.",
                )
            return found
        if not place.is_dir():
            if not place.exists():
                raise FileNotFoundError(2, "missing", str(place))
            what = "quantised" if record.format in _QUANTISED else "a checkpoint in one file"
            raise InvalidModelException(
                f"{record.name!r} is {what}, which cannot be lent yet.",
                metadata={"path": str(place), "detail": "single-file main model"},
                remedy="Install the model as a folder in diffusers' layout, in float16, bfloat16 or float32.",
            )
        index = self._read_json(place, "model_index.json", ground.listing)
        if not ref.submodel:
            parts = self._parts(record, ground, index)
            raise SubmodelRequiredException(
                f"{record.name!r} is a main model: say which component. {_told(parts)}",
                metadata={
                    "key": record.key,
                    "available": ",".join(parts),
                    "loadable": ",".join(_loadable(parts)),
                },
                remedy=_choice(parts),
            )
        entry = _class_of(index.get(ref.submodel))
        if entry is None:
            parts = self._parts(record, ground, index)
            raise UnknownSubmodelException(
                f"{record.name!r} has no component {ref.submodel}. {_told(parts)}",
                metadata={
                    "key": record.key,
                    "submodel": ref.submodel,
                    "loadable": ",".join(_loadable(parts)),
                },
                remedy=_choice(parts),
            )
        found = self._find_folder(record, ground, ref.submodel, *entry)
        found.location = place
        # A configuration need not name it: then the class's own default is meant.
        if record.config.get("upcast_attention") and found.class_name == "UNet2DConditionModel":
            found.overrides["upcast_attention"] = True
        return found

    def _parts(self, record: Record, ground: Ground, index: Mapping[str, Any]) -> dict[str, str]:
        """Components of a main model that can be asked for → why one cannot be lent; "" if it can.

        Names in folders are looked at; no weights are read.
        """
        parts: dict[str, str] = {}
        for name in sorted(SubModelType):
            if name == SubModelType.VAE and record.config.get("vae"):
                parts[name] = ""  # the one that the record names
                continue
            if (entry := _class_of(index.get(name))) is None:
                continue
            listing = ground.listing.inside(name)
            try:
                folder = self._roots.resolve(ground.place / name)
                self._check_class(*entry, folder, listing)
                self._weights(folder, listing)
                parts[name] = ""
            except ModelkeepError as error:
                parts[name] = error.reason
            except OSError:
                parts[name] = ModelNotFoundException.reason
        return parts

    def _find_single(self, record: Record, ground: Ground) -> Found:
        place, listing = ground.place, ground.listing
        if place.is_dir():
            return self._find_folder(record, ground, "", "", "")
        if not place.exists():
            raise FileNotFoundError(2, "missing", str(place))
        if record.type not in ("vae", "main"):
            raise InvalidModelException(
                f"{record.name!r} is of the type {record.type}, and in one file only VAEs can be lent yet.",
                metadata={"path": str(place), "detail": f"single-file {record.type}"},
                remedy="Read the file itself, or correct the record's type if it is a VAE.",
            )
        if place.suffix.lower() in PICKLE_SUFFIXES and not self._is_safetensors(place):
            raise _unsafe(place)
        # By the name that the record has it under, also where a link leads elsewhere (a cache of blobs).
        name = os.path.basename(ground.name)
        listing.require(name, place)
        return Found("diffusers", "AutoencoderKL", None, [(name, place)], place, listing)

    def _find_folder(
        self, record: Record, ground: Ground, submodel: str, library: str, class_name: str
    ) -> Found:
        listing = ground.listing.inside(submodel) if submodel else ground.listing
        folder = self._roots.resolve(ground.place / submodel)
        if class_name:
            # Before anything is looked for: a tokenizer or scheduler has no weights to look for.
            self._check_class(library, class_name, folder, listing)
        config = self._read_json(folder, "config.json", listing)
        if not class_name:
            if isinstance(name := config.get("_class_name"), str):
                library, class_name = "diffusers", name
            elif isinstance(names := config.get("architectures"), list) and len(names) == 1:
                library, class_name = "transformers", str(names[0])
            else:
                raise InvalidModelException(
                    f"The config.json of {record.name!r} does not say which class it is for.",
                    metadata={"path": str(folder), "detail": "no class"},
                    remedy="Fetch config.json anew: it has a _class_name, or one class in architectures.",
                )
        self._check_class(library, class_name, folder, listing)
        # Names as the record has them, also where links lead elsewhere (a cache of blobs).
        files = [(name, self._roots.resolve(folder / name)) for name in self._weights(folder, listing)]
        config = checked_config(class_name, config, folder / "config.json")
        return Found(library, class_name, config, files, folder, listing)

    def _check_class(self, library: str, class_name: str, folder: Path, listing: Listing) -> None:
        if (library, class_name) in ALLOWED:
            return
        with contextlib.suppress(OSError):
            if pickle := _pickle(_listed(folder, listing)):
                raise _unsafe(folder / pickle)
        raise InvalidModelException(
            f"{class_name} of {library} is not among the classes that can be lent.",
            metadata={"path": str(folder), "detail": f"class {class_name}"},
            remedy="Read it from its folder yourself. These classes can be lent: "
            f"{', '.join(sorted(name for _, name in ALLOWED))}.",
        )

    def _weights(self, folder: Path, listing: Listing) -> list[str]:
        names = _listed(folder, listing)
        for stem in _STEMS:
            whole, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
            variant = re.compile(
                rf"{stem}\.([A-Za-z0-9_]+\.safetensors|safetensors\.index\.[A-Za-z0-9_]+\.json)"
            )
            variants = sorted(filter(variant.fullmatch, names), key=lambda n: (".fp16." not in n, n))
            for name in (whole, index, *variants):
                if name in names:
                    return [name] if name.endswith(".safetensors") else self._shards(folder, name, listing)
        if pickle := _pickle(names):
            raise _unsafe(folder / pickle)
        raise FileNotFoundError(2, "missing", str(folder / f"{_STEMS[0]}.safetensors"))

    def _shards(self, folder: Path, index: str, listing: Listing) -> list[str]:
        shards = self._read_json(folder, index, listing, MAX_INDEX_BYTES).get("weight_map")
        named = list(shards.values()) if isinstance(shards, dict) else []
        if not named or not all(isinstance(n, str) and "/" not in n for n in named):
            raise InvalidModelException(
                f"The index {index} of {folder.name} does not list files.",
                metadata={"path": str(folder), "detail": "bad index"},
                remedy="Fetch the index anew, or take it away if the weights are in one file.",
            )
        if len(listed := set(named)) > MAX_FILES:
            raise InvalidModelException(
                f"{folder.name} is in {len(listed)} files; at most {MAX_FILES} can be lent.",
                metadata={"path": str(folder), "detail": f"{len(listed)} shards"},
                remedy="Save the model in fewer and larger files.",
            )
        for name in listed:
            listing.require(name, folder / name)
        return sorted(listed)

    def read_header(self, path: Path, allowance: Allowance | None = None) -> tuple[Header, os.stat_result]:
        """A weight file's header and status, both of one descriptor."""
        with self.open(path) as fd:
            status = os.fstat(fd)
            header = read_header(fd, path, allowance=allowance)
        header.check_lendable()
        return header, status

    def _is_safetensors(self, path: Path) -> bool:
        """Whether its bytes are, whatever its name says."""
        with self.open(path) as fd:
            return content_of(os.pread(fd, BEGINNING_BYTES, 0)).kind is Kind.SAFETENSORS

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[int]:
        """Open a regular file for reading.

        Raises:
            InvalidModelException: It is none.
            ForbiddenPathException, OSError: As :meth:`AllowedRoots.open_beneath` says.
        """
        # O_NONBLOCK: opening a FIFO without a writer would wait for ever
        fd = self._roots.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
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

    def _read_json(
        self, folder: Path, name: str, listing: Listing, limit: int = MAX_CONFIG_BYTES
    ) -> dict[str, Any]:
        path = folder / name
        with self.open(path) as fd:
            listing.require(name, path)
            value = read_object(fd, path, limit)
            listing.check(name, path, fd)
        return value


def _listed(folder: Path, listing: Listing) -> set[str]:
    return {entry.name for entry in os.scandir(folder) if listing.has(entry.name)}


def _class_of(entry: object) -> tuple[str, str] | None:
    """Library and class that a model_index.json has for a component; None where it has none."""
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry):
        return entry[0], entry[1]
    return None


def _loadable(parts: Mapping[str, str]) -> list[str]:
    return [name for name, why in parts.items() if not why]


def _choice(parts: Mapping[str, str]) -> str:
    if can := _loadable(parts):
        return f"Name one of the components that can be lent: {', '.join(can)}."
    return "Install the model with weights in safetensors files, in diffusers' layout."


def _told(parts: Mapping[str, str]) -> str:
    can, others = _loadable(parts), [f"{name} ({why})" for name, why in parts.items() if why]
    said = f"It can lend {', '.join(can)}." if can else "It has none that can be lent."
    return f"{said} It cannot lend {', '.join(others)}." if others else said


def _pickle(names: Collection[str]) -> str:
    """A file that is named as weights and may run code, if the names have one and no other weights."""
    if any(name.endswith(".safetensors") for name in names):
        return ""
    return min((name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES), default="")


def _unsafe(path: Path) -> UnsafeFormatException:
    return UnsafeFormatException(
        f"{path.name} is a pickle, which may run code when it is read; only safetensors files are lent.",
        metadata={"path": str(path), "format": path.suffix.lower()},
    )
