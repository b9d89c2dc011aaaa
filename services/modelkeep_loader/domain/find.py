"""Where a component lies on disk: from a record to class, configuration and weight files.

Everything here reads files, and nothing of what they say is trusted: paths stay beneath the allowed
roots, also through links; only listed classes and safetensors files are taken. Folders are
:mod:`modelkeep_loader.domain.folders`, main models in one file
:mod:`modelkeep_loader.domain.checkpoints`, objects :mod:`modelkeep_loader.domain.objects`, bare tensors
:mod:`modelkeep_loader.domain.statedicts`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, Final

from modelkeep.exceptions import (
    FieldInvalidException,
    FieldViolation,
    InvalidModelException,
    ModelkeepError,
    ModelNotFoundException,
    RootMismatchException,
)
from modelkeep.taxonomy import SubModelType
from modelkeep_common.paths import AllowedRoots
from modelkeep_loader.domain.checkpoints import Originals, find_part
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.files import Files, single_file
from modelkeep_loader.domain.folders import check_lendable, find_folder
from modelkeep_loader.domain.found import Found, Ground
from modelkeep_loader.domain.listing import Listing
from modelkeep_loader.domain.records import FileFacts, Record
from modelkeep_loader.domain.statedicts import STATE_DICTS, find_state_dict
from modelkeep_loader.domain.submodels import none_named, not_there
from modelkeep_loader.domain.unreadable import is_short

_MOST_NAMES: Final = 64
#: Types of which nothing is ever lent → why.
_NEVER: Final[Mapping[str, str]] = {
    "onnx": "graphs have no module whose weights could be lent",
    "external_image_generator": "a remote service has no weights here",
}


class Finder:
    """Finds the files of components.

    Args:
        models_dir: The folder that relative paths are relative to.
        root_id: Its id; asked anew each time, since the folder may be mounted later than the loader
            starts. None if it has none.
        roots: Everything that may be read.
        originals: Configurations that records name for their checkpoints; None: as the models.
    """

    def __init__(
        self,
        models_dir: Path,
        root_id: Callable[[], str | None],
        roots: AllowedRoots,
        originals: Originals | None = None,
    ) -> None:
        self.models_dir = models_dir
        self.originals = originals if originals is not None else Originals(models_dir, roots)
        self._root_id = root_id
        self.files = Files(roots)

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
        return self.files.roots.resolve(path, base=self.models_dir)

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
            return find_part(self.files, self.originals, ref, record, ground)
        index = self.files.json(place, "model_index.json", ground.listing)
        if not ref.submodel:
            raise none_named(record, self._parts(record, ground, index))
        entry = _class_of(index.get(ref.submodel))
        if entry is None:
            raise not_there(record, ref.submodel, self._parts(record, ground, index))
        found = find_folder(self.files, record, ground, ref.submodel, *entry)
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
            try:
                check_lendable(self.files, record, ground, name, *entry)
                parts[name] = ""
            except ModelkeepError as error:
                parts[name] = error.reason
            except OSError as error:
                if is_short(error):
                    raise
                parts[name] = ModelNotFoundException.reason
        return parts

    def _find_single(self, record: Record, ground: Ground) -> Found:
        place = ground.place
        if (why := _NEVER.get(record.type)) is not None:
            raise InvalidModelException(
                f"{record.name!r} is of the type {record.type}: {why}.",
                metadata={"path": str(place), "detail": f"type {record.type}"},
                remedy="Run it where it is, or correct the record's type.",
            )
        if record.type in STATE_DICTS:
            return find_state_dict(self.files, record, ground)
        if place.is_dir():
            return find_folder(self.files, record, ground)
        name, _ = single_file(self.files, ground)
        if record.type not in ("vae", "main"):
            raise InvalidModelException(
                f"{record.name!r} is of the type {record.type}, which cannot be lent from one file yet.",
                metadata={"path": str(place), "detail": f"single-file {record.type}"},
                remedy="Read the file itself, or correct the record's type if it is a VAE.",
            )
        return Found("diffusers", "AutoencoderKL", None, [(name, place)], place, ground.listing)


def _class_of(entry: object) -> tuple[str, str] | None:
    """Library and class that a model_index.json has for a component; None where it has none."""
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry):
        return entry[0], entry[1]
    return None
