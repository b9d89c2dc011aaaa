"""Components in folders: which class, which configuration, which weight files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from modelkeep.exceptions import InvalidModelException
from modelkeep.modeljson import MAX_INDEX_BYTES
from modelkeep.torchzip import unsafe
from modelkeep.worker.classconfig import checked_config
from modelkeep.worker.classes import ALLOWED
from modelkeep.worker.objectclasses import OBJECTS
from modelkeep_convert.request import MAX_FILES
from modelkeep_loader.domain.files import Files, listed, pickle_among
from modelkeep_loader.domain.found import Found, Ground
from modelkeep_loader.domain.listing import Listing
from modelkeep_loader.domain.objects import find_object
from modelkeep_loader.domain.records import Record

_STEMS = ("diffusion_pytorch_model", "model")
#: Of weights that are pickles; they are taken where there are no others.
_PICKLE_STEMS = ("diffusion_pytorch_model", "pytorch_model")
#: The library that calls its weights by the latter ones, and takes these where a folder has both.
_LATTER = "transformers"
#: What says which files a component's shards are; also of a variant.
INDEX_NAMES: Final = "*.index*.json"


def find_folder(
    files: Files, record: Record, ground: Ground, submodel: str = "", library: str = "", class_name: str = ""
) -> Found:
    """A component that is a folder.

    Args:
        files: Reads it.
        record: The model.
        ground: The model's files.
        submodel: The folder's name below the model's; "" if it is the model's.
        library, class_name: What model_index.json says it is; "" if the folder itself has to.

    Raises:
        FileNotFoundError, OSError: A file is missing, or cannot be read.
        UnsafeFormatException: Its weights are pickles of more than tensors.
        InvalidModelException: Its class is not on the list, or a file is not what it should be.
    """
    listing = ground.listing.inside(submodel) if submodel else ground.listing
    folder = files.roots.resolve(ground.place / submodel)
    if (library, class_name) in OBJECTS:
        return find_object(files, record, ground, folder, submodel, library, class_name)
    if class_name:
        check_class(library, class_name, folder)
    config = files.json(folder, "config.json", listing)
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
    check_class(library, class_name, folder)
    # Names as the record has them, also where links lead elsewhere (a cache of blobs).
    named = [(name, files.roots.resolve(folder / name)) for name in weights(files, folder, listing, library)]
    config = checked_config(class_name, config, folder / "config.json")
    return Found(library, class_name, config, named, folder, listing)


def check_lendable(
    files: Files, record: Record, ground: Ground, submodel: str, library: str, class_name: str
) -> None:
    """Raise what would keep a component of a pipeline from being lent. No weights are read.

    Raises:
        ModelkeepError, OSError: See :func:`find_folder`.
    """
    folder = files.roots.resolve(ground.place / submodel)
    if (library, class_name) in OBJECTS:
        find_object(files, record, ground, folder, submodel, library, class_name)
        return
    listing = ground.listing.inside(submodel)
    check_class(library, class_name, folder)
    weights(files, folder, listing, library)


def check_class(library: str, class_name: str, folder: Path) -> None:
    """Refuse what is not on the list of classes.

    Raises:
        InvalidModelException: It is not.
    """
    if (library, class_name) in ALLOWED:
        return
    raise InvalidModelException(
        f"{class_name} of {library} is not among the classes that can be lent.",
        metadata={"path": str(folder), "detail": f"class {class_name}"},
        # All names would fill the trailers of an answer.
        remedy="Read it from its folder yourself; modelkeep/worker/classes.py names those that can be lent.",
    )


def weights(files: Files, folder: Path, listing: Listing, library: str) -> list[str]:
    """Names of the weight files in a folder: one, a variant, or shards; those of the class's library first.

    Raises:
        FileNotFoundError, OSError: There are none.
        UnsafeFormatException: There are only pickles, and they hold more than tensors.
        InvalidModelException: The index of shards is not what it should be.
    """
    names = listed(folder, listing)
    step = -1 if library == _LATTER else 1
    if found := _named(files, folder, listing, names, _STEMS[::step], "safetensors"):
        return found
    if pickle := pickle_among(names):
        found = _named(files, folder, listing, names, _PICKLE_STEMS[::step], "bin")
        if not found:
            unsafe(folder / pickle, "it has none of the names that a component's weights have")
        for name in found:
            files.check_pickle(files.roots.resolve(folder / name), folder / name)
        return found
    raise FileNotFoundError(2, "missing", str(folder / f"{_STEMS[0]}.safetensors"))


def _named(
    files: Files, folder: Path, listing: Listing, names: set[str], stems: tuple[str, ...], suffix: str
) -> list[str]:
    """Those of the usual names; none if there are none."""
    for stem in stems:
        whole, index = f"{stem}.{suffix}", f"{stem}.{suffix}.index.json"
        variant = re.compile(rf"{stem}\.([A-Za-z0-9_]+\.{suffix}|{suffix}\.index\.[A-Za-z0-9_]+\.json)")
        variants = sorted(filter(variant.fullmatch, names), key=lambda n: (".fp16." not in n, n))
        for name in (whole, index, *variants):
            if name in names:
                return [name] if name.endswith(f".{suffix}") else _shards(files, folder, name, listing)
    return []


def _shards(files: Files, folder: Path, index: str, listing: Listing) -> list[str]:
    shards = files.json(folder, index, listing, MAX_INDEX_BYTES).get("weight_map")
    named = list(shards.values()) if isinstance(shards, dict) else []
    if not named or not all(isinstance(n, str) and "/" not in n for n in named):
        raise InvalidModelException(
            f"The index {index} of {folder.name} does not list files.",
            metadata={"path": str(folder), "detail": "bad index"},
            remedy="Fetch the index anew, or take it away if the weights are in one file.",
        )
    if len(unique := set(named)) > MAX_FILES:
        raise InvalidModelException(
            f"{folder.name} is in {len(unique)} files; at most {MAX_FILES} can be lent.",
            metadata={"path": str(folder), "detail": f"{len(unique)} shards"},
            remedy="Save the model in fewer and larger files.",
        )
    for name in unique:
        listing.require(name, folder / name)
    return sorted(unique)
