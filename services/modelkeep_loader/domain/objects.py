"""Objects without weights: tokenizers, schedulers, image processors, each made of a few small files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.classconfig import check_settings
from modelkeep.worker.manifest import Kind
from modelkeep.worker.objectclasses import OBJECT_FILES, OBJECTS, SCHEDULER_FILE
from modelkeep_loader.domain.files import Files, listed
from modelkeep_loader.domain.found import Found, Ground
from modelkeep_loader.domain.records import Record

#: What the files of an object may come to. The largest vocabularies are some 40 MB.
_MAX_BYTES: Final = 256 << 20


def find_object(
    files: Files, record: Record, ground: Ground, folder: Path, submodel: str, library: str, class_name: str
) -> Found:
    """The files of an object in its folder.

    Args:
        files: Reads them.
        record: The model.
        ground: The model's files.
        folder: The object's folder, without links.
        submodel: Its name below the model's folder; "" if it is the model.
        library, class_name: Of :data:`modelkeep.worker.objectclasses.OBJECTS`.

    Raises:
        FileNotFoundError: The file is missing that says most.
        InvalidModelException: Its settings are beyond reason, or its files larger than any object's.
    """
    listing = ground.listing.inside(submodel) if submodel else ground.listing
    what = OBJECTS[library, class_name]
    first, *_ = wanted = OBJECT_FILES[what]
    there = listed(folder, listing)
    names = [name for name in wanted if name in there]
    if not names or (what == "scheduler" and first not in names):
        raise FileNotFoundError(2, "missing", str(folder / first))
    overrides = {}
    if what == "scheduler":
        settings = files.json(folder, SCHEDULER_FILE, listing)
        check_settings(settings, folder / SCHEDULER_FILE)
        # Some have no such setting; then there is nothing that the record could say otherwise.
        if (said := record.config.get("prediction_type")) and "prediction_type" in settings:
            overrides = {"prediction_type": str(said)}
    found = [(name, files.roots.resolve(folder / name)) for name in names]
    if (size := sum(files.status(path).st_size for _, path in found)) > _MAX_BYTES:
        raise InvalidModelException(
            f"The files of this {class_name} come to {size:,} bytes, more than {_MAX_BYTES:,}.",
            metadata={"path": str(folder), "detail": f"{size} bytes"},
            remedy="Fetch the model anew: one of them is no file of its kind.",
        )
    return Found(library, class_name, {}, found, folder, listing, overrides, Kind.OBJECT)
