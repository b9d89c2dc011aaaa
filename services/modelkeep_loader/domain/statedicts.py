"""Models that are named tensors and nothing else: LoRAs, IP adapters, learned embeddings and the like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from modelkeep.contents import PICKLE_SUFFIXES
from modelkeep.exceptions import InvalidModelException
from modelkeep.worker.manifest import Kind
from modelkeep_loader.domain.files import Files, listed, single_file
from modelkeep_loader.domain.found import Found, Ground
from modelkeep_loader.domain.records import Record

_SAFETENSORS: Final = ".safetensors"
#: Type of such a model → what its weights are called in a folder of it; any other name will do if it is
#: the only one. Of pickles, which are taken where there is nothing else, the same with ".bin".
STATE_DICTS: Final[Mapping[str, tuple[str, ...]]] = {
    "lora": ("pytorch_lora_weights.safetensors",),
    "control_lora": ("pytorch_lora_weights.safetensors",),
    "embedding": ("learned_embeds.safetensors",),
    "ip_adapter": ("ip_adapter.safetensors",),
    "spandrel_image_to_image": (),
    "flux_redux": (),
    "pid_decoder": (),
}


def find_state_dict(files: Files, record: Record, ground: Ground) -> Found:
    """The one weight file of such a model.

    Args:
        files: Reads them.
        record: The model; its type is one of :data:`STATE_DICTS`.
        ground: Its file or folder.

    Raises:
        FileNotFoundError: It is not there.
        UnsafeFormatException: There are only pickles, of more than tensors.
        InvalidModelException: Its folder has several weight files, and none has the usual name.
    """
    place, listing = ground.place, ground.listing
    if not place.is_dir():
        name, path = single_file(files, ground)
    else:
        name = _in_folder(record, place, listed(place, listing))
        path = files.roots.resolve(place / name)
        if not name.endswith(_SAFETENSORS):
            files.check_pickle(path, place / name)
    return Found("", "", {}, [(name, path)], place, listing, kind=Kind.STATE_DICT)


def _in_folder(record: Record, folder: Path, names: set[str]) -> str:
    weights = sorted(name for name in names if name.endswith(_SAFETENSORS))
    usual = STATE_DICTS[record.type]
    if not weights:
        weights = sorted(name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES)
        usual = tuple(f"{name.removesuffix(_SAFETENSORS)}.bin" for name in usual)
    for name in usual:
        if name in weights:
            return name
    if len(weights) > 1:
        raise InvalidModelException(
            f"The folder of {record.name!r} has {len(weights)} weight files; nothing says which is meant.",
            metadata={"path": str(folder), "detail": f"{len(weights)} weight files"},
            remedy=f"Register the one file itself: {', '.join(weights[:4])}.",
        )
    if weights:
        return weights[0]
    raise FileNotFoundError(2, "missing", str(folder / "*.safetensors"))
