"""Components of main models in one file: from names and shapes of tensors to class and configuration.

Of the file only the header is read. What no shape shows comes from the configuration that the record names,
or from the one that models of its base were published with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modelkeep.exceptions import ForbiddenPathException, InvalidModelException, ModelNotFoundException
from modelkeep.headers import Header
from modelkeep.taxonomy import SubModelType
from modelkeep.worker.manifest import Kind
from modelkeep.worker.objectclasses import SCHEDULER_FILE
from modelkeep_common.paths import AllowedRoots
from modelkeep_convert.checkpoints import original, parts, schedulers, settings
from modelkeep_convert.checkpoints.original import Original
from modelkeep_loader.domain.components import ComponentRef
from modelkeep_loader.domain.files import Files, single_file
from modelkeep_loader.domain.found import Found, Ground
from modelkeep_loader.domain.records import Record
from modelkeep_loader.domain.submodels import none_named, not_there
from modelkeep_loader.domain.weights import Weights

#: The folder of the suite's root that holds configurations; nothing else of the root may be read.
CONFIGS: Final = "configs"
_TOKENIZERS: Final = frozenset({SubModelType.Tokenizer, SubModelType.Tokenizer2, SubModelType.Tokenizer3})


class Originals:
    """The configurations that records name for their checkpoints.

    Args:
        root: The suite's root, which relative paths are relative to.
        roots: Everything that may be read for one.
    """

    def __init__(self, root: Path, roots: AllowedRoots) -> None:
        self._root = root
        self._files = Files(roots)

    def place(self, record: Record) -> Path | None:
        """Where the one that a record names should lie; None if it names none."""
        named = str(record.config.get("checkpoint_config") or "")
        return self._root / named if named else None

    def of(self, record: Record) -> tuple[Original | None, bool]:
        """What a record's checkpoint was published with, and whether the record itself says so.

        Raises:
            ForbiddenPathException: It lies where nothing may be read.
            ModelNotFoundException: It is not there, and none of its name comes along.
            InvalidModelException: It is none.
        """
        if (place := self.place(record)) is None:
            return original.of_base(record.base), False
        known = original.shipped(place.name)
        try:
            with self._files.open(self._files.roots.resolve(place)) as fd:
                text = os.pread(fd, original.MAX_BYTES + 1, 0)
        except (FileNotFoundError, NotADirectoryError):
            if known is None:
                raise ModelNotFoundException(
                    f"The configuration that the record of {record.name!r} names is not at {place}, and none "
                    f"called {place.name} comes along; these do: "
                    f"{', '.join(sorted(original.shipped_names()))}.",
                    metadata={"key": record.key, "path": str(place)},
                ) from None
            return known, True
        except ForbiddenPathException:
            # A relative one is relative to another suite's root, perhaps; an absolute one says where.
            if known is None or os.path.isabs(str(record.config["checkpoint_config"])):
                raise
            return known, True
        return original.parse(text, place.name), True


def find_part(files: Files, originals: Originals, ref: ComponentRef, record: Record, ground: Ground) -> Found:
    """A component of a main model in one file.

    Args:
        files: Reads the file's header.
        originals: Has the configuration that the record names.
        ref: The component.
        record: The model.
        ground: The model's file.

    Raises:
        FileNotFoundError, OSError: The file is missing, or cannot be read.
        SubmodelRequiredException, UnknownSubmodelException: None, or another component was asked for.
        UnsafeFormatException: It is a pickle of more than tensors.
        ModelNotFoundException, ForbiddenPathException: As :meth:`Originals.of`.
        InvalidModelException: It is no checkpoint of its base, or one that cannot be lent.
    """
    name, place = single_file(files, ground)
    header, _ = files.header(place)
    there = parts.parts_of(header, record.base, place.name)
    published, is_named = originals.of(record)
    predicted = _prediction_type(record, header, published if is_named else None)
    scheduler = schedulers.settings_of(record.base, header, published, predicted)
    lendable = dict.fromkeys(
        sorted({*there, "scheduler", *(["vae"] if record.config.get("vae") else [])}), ""
    )
    if scheduler is None:
        lendable["scheduler"] = InvalidModelException.reason
    if not ref.submodel:
        raise none_named(record, lendable)
    if ref.submodel == SubModelType.Scheduler:
        return _scheduler(record, ground, scheduler)
    if (part := there.get(ref.submodel)) is None:
        why = (
            "No single file holds a tokenizer: take it from a folder of the same base."
            if ref.submodel in _TOKENIZERS
            else ""
        )
        raise not_there(record, ref.submodel, lendable, why)
    config = settings.settings_of(part, header, record.base, published, predicted, is_named=is_named)
    overrides: dict[str, Any] = {}
    if record.config.get("upcast_attention") and part.class_name == "UNet2DConditionModel":
        overrides["upcast_attention"] = True
    return Found(
        part.library, part.class_name, config, [(name, place)], place, ground.listing, overrides, part=part
    )


def private_bytes(found: Found, weights: Weights) -> int:
    """What the conversion of a part takes besides what is lent; views of the file take nothing."""
    if found.library == "transformers":
        return weights.dequantised_bytes  # its own loader has them in memory as a whole
    # So are weights that are dequantised; what stays as it is stored is not read before it is lent.
    return weights.size_bytes if weights.quantisation and weights.form == "dequantised" else 0


def _prediction_type(record: Record, header: Header, named: Original | None) -> str:
    """What the denoiser predicts: by the record, else the file's marks, else the configuration."""
    if said := str(record.config.get("prediction_type") or ""):
        return said
    return schedulers.marked(header) or (named.prediction_type if named is not None else "")


def _scheduler(record: Record, ground: Ground, found: Mapping[str, Any] | None) -> Found:
    if found is None:
        raise InvalidModelException(
            f"Neither the file nor the record of {record.name!r} says what its denoiser predicts, so no "
            "scheduler would be right for certain.",
            metadata={"path": str(ground.place), "detail": "prediction type not known"},
            remedy="Set the record's prediction_type: v_prediction for 768-v models, epsilon for others.",
        )
    class_name = str(found["_class_name"])
    texts = {SCHEDULER_FILE: json.dumps(dict(found), indent=2, sort_keys=True)}
    return Found("diffusers", class_name, {}, [], ground.place, ground.listing, {}, Kind.OBJECT, texts)
