"""Pipelines and components of diffusers and transformers: which of their files are taken. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from modelkeep_download.resolve.listing import Entry, directly_in, listed, parents, size_of
from modelkeep_download.resolve.picks import Pick, check_variant
from modelkeep_download.resolve.plans import Choice
from modelkeep_download.resolve.weights import FULL, LENIENT, ONNX, FolderWeights, Taken

PIPELINE_INDEX: Final = "model_index.json"
#: What marks the folder of an adapter of PEFT.
PEFT: Final = frozenset({"adapter_config.json"})
_CONFIG: Final = "config.json"
#: Taken of a pipeline's own folder, if they are there.
_AT_TOP: Final = frozenset(
    {
        *(PIPELINE_INDEX, _CONFIG, "scheduler_config.json"),
        *("chat_template.jinja", "generation_config.json", "preprocessor_config.json"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
)
_ONNX_CLASSES: Final = ("Onnx", "ORT", "OV")


def index_path(entries: Sequence[Entry], base: str) -> str:
    """Where a folder's model_index.json is; empty if it has none."""
    here = directly_in(entries, base)
    return next((entry.path for entry in here if entry.name == PIPELINE_INDEX), "")


def component_folders(entries: Sequence[Entry]) -> list[str]:
    """The folders that are pipelines or components; those inside of another one are not named again."""
    here: dict[str, list[Entry]] = {}
    for entry in entries:
        here.setdefault(entry.folder, []).append(entry)
    names = {folder: {entry.name for entry in files} for folder, files in here.items()}
    pipelines = {folder for folder in here if PIPELINE_INDEX in names[folder]}
    found = [
        folder
        for folder, files in here.items()
        if folder in pipelines or (({_CONFIG, *PEFT} & names[folder]) and FolderWeights(files))
    ]
    inside = pipelines - {""}
    return sorted(folder for folder in found if inside.isdisjoint(parents(folder)))


def pipeline(within: Sequence[Entry], base: str, index: Mapping[str, Any], variant: str, source: str) -> Pick:
    """The files of a pipeline: its own components', each in the variant, or in full precision without it.

    Args:
        within: The files in its folder and below.
        base: Its folder.
        index: What its model_index.json says.
        variant: The variant that is asked for.
        source: How it is written.

    Raises:
        UnknownVariantException: No component has it.
    """
    ignored = {f"{base}/{name}".lstrip("/") for name in _texts(index.get("_ignore_files"))}
    within = [entry for entry in within if entry.path not in ignored]
    names = _components(index)
    beneath_each = _by_folder(within, base)
    folders = {name: f"{base}/{name}".lstrip("/") for name in names if name in beneath_each}
    weights = {
        name: FolderWeights(directly_in(beneath_each[name], folder)) for name, folder in folders.items()
    }
    top = directly_in(within, base)
    if len(folders) < len(names) and (at_top := FolderWeights(top)):
        weights[""] = at_top
        folders[""] = base
    heavy = {name: found for name, found in weights.items() if found}
    class_name = index.get("_class_name")
    prefers_onnx = isinstance(class_name, str) and class_name.startswith(_ONNX_CLASSES)
    taken, reasons, chosen = _chosen(heavy, variant, prefers_onnx=prefers_onnx, source=source)

    files = [entry for entry in top if entry.name in _AT_TOP]
    for name, found in beneath_each.items():
        if name not in folders:
            continue
        if name in taken:
            files += taken[name].files
            files += [entry for entry in directly_in(found, folders[name]) if entry.name == _CONFIG]
        elif name not in heavy:
            files += [entry for entry in found if entry.is_small_part]
    if "" in taken:
        files += taken[""].files
    if not taken:
        files = []
    shown = class_name if isinstance(class_name, str) else "of a class of its own"
    first = f"A diffusers pipeline ({shown}): what its model_index.json names ({listed(names, 12)})."
    choices = _variants(heavy, chosen, prefers_onnx=prefers_onnx)
    return Pick(
        list(dict.fromkeys(files)),
        chosen,
        [first, *reasons],
        choices,
        partial(_belongs, base=base, folders=frozenset(folders.values())),
        partial(_is_standard, base=base),
    )


def _by_folder(within: Sequence[Entry], base: str) -> dict[str, list[Entry]]:
    """The files beneath a folder, by the next folder on the way to them."""
    start, found = len(base) + 1 if base else 0, dict[str, list[Entry]]()
    for entry in within:
        first, slash, _ = entry.path[start:].partition("/")
        if slash:
            found.setdefault(first, []).append(entry)
    return found


def flat(within: Sequence[Entry], base: str, variant: str, source: str) -> Pick:
    """The files of one component: weights in the variant, and all that is small beside them.

    Raises:
        UnknownVariantException: It does not have it.
    """
    here = directly_in(within, base)
    weights = FolderWeights(here)
    if variant == ONNX and not weights.has_onnx:
        weights = FolderWeights([*here, *directly_in(within, f"{base}/onnx".lstrip("/"))])
    taken, reasons, chosen = _chosen({"": weights}, variant, prefers_onnx=False, source=source)
    side = [entry for entry in here if entry.is_side_file and not _is_index(entry)]
    files = [*side, *(taken[""].files if taken else [])]
    choices = _variants({"": weights}, chosen, prefers_onnx=False)
    first = "A model of one component: its weights, and the small files beside them."
    return Pick(
        files,
        chosen,
        [first, *reasons],
        choices,
        partial(_belongs, base=base, folders=frozenset()),
        partial(_is_standard, base=base),
    )


def _chosen(
    heavy: Mapping[str, FolderWeights], asked: str, *, prefers_onnx: bool, source: str
) -> tuple[dict[str, Taken], list[str], str]:
    """The weights of each component, why these, and the variant that they are."""
    variants = {variant for weights in heavy.values() for variant in weights.variants}
    variant = "" if asked in FULL - variants else asked
    if not variant and (prefers_onnx or not any(weights.has_torch for weights in heavy.values())):
        variant = ONNX if ONNX in variants else ""
    own = {name: found for name, weights in heavy.items() if (found := weights.of(variant))}
    if variant and heavy and not own and variant not in LENIENT:
        check_variant(variant, [Choice("variant", name or "default") for name in variants], source)
    taken = {name: found for name, weights in heavy.items() if (found := own.get(name) or weights.best())}
    reasons = _why(taken, own, asked, variant)
    if any(found.format == "safetensors" and "bin" in heavy[name].formats for name, found in taken.items()):
        reasons.append("Weights in safetensors are taken before the same in bin.")
    told = {found.variant for found in taken.values()}
    chosen = variant if own else next(iter(told)) if len(told) == 1 else ""
    return taken, reasons, chosen


def _why(taken: Mapping[str, Taken], own: Mapping[str, Taken], asked: str, variant: str) -> list[str]:
    reasons = []
    if variant and own and asked:
        reasons.append(f"The variant {variant}, as asked for.")
    elif variant and own:
        reasons.append(f"It comes as {variant}.")
    elif variant:
        full = all(not found.variant for found in taken.values())
        instead = ": those in full precision are taken" if full else ""
        reasons.append(f"There are no {variant} files{instead}.")
    others: dict[str, list[str]] = {}
    for name in taken.keys() - own.keys():
        others.setdefault(taken[name].variant, []).append(name or "the model")
    for other, names in sorted(others.items()):
        if other:
            reasons.append(f"{listed(sorted(names), 12)} taken as {other}: there is no other precision.")
        elif own:
            reasons.append(f"{listed(sorted(names), 12)} taken in full precision: not there as {variant}.")
    return reasons


def _variants(heavy: Mapping[str, FolderWeights], chosen: str, *, prefers_onnx: bool) -> list[Choice]:
    names = sorted({variant for weights in heavy.values() for variant in weights.variants})
    if len(names) < 2:
        return []
    found = []
    for name in names:
        taken = [one for weights in heavy.values() if (one := weights.of(name) or weights.best())]
        size = sum(size_of(one.files) for one in taken)
        found.append(Choice("variant", name or "default", size=size, chosen=name == chosen))
    return found


def _components(index: Mapping[str, Any]) -> list[str]:
    """The components that a pipeline loads: of those that are null there is nothing to fetch."""
    return [
        name
        for name, made_of in index.items()
        if name != "_class_name" and isinstance(made_of, list) and any(part is not None for part in made_of)
    ]


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_index(entry: Entry) -> bool:
    return ".index." in entry.name and entry.suffix == "json"


def _is_standard(entry: Entry, base: str) -> bool:
    return entry.folder == base and bool(FolderWeights([entry]))


def _belongs(entry: Entry, base: str, folders: frozenset[str]) -> bool:
    return entry.folder == base or entry.folder in folders
