"""The probe: type, base, format and more of a model on disk, from headers and configs only."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelkeep.contents import PICKLE_SUFFIXES, TENSOR_SUFFIXES, TEXTS, Kind
from modelkeep.exceptions import InvalidModelException
from modelkeep.quantised import FORMATS, REMEDY, quantisation, weights_only
from modelkeep_common.families.others import looks_like
from modelkeep_common.wire import total

from ..domain.system_errors import reading
from .matching import FILE_KINDS
from .matching.pipeline import as_folder, lora_in, probe_folder
from .names import default_description, default_name
from .readers.folder import Folder, listed, unsafe
from .readers.headers import Opener, look, open_regular, read_header
from .readers.listing import Listing, list_files
from .readers.sidecars import SideCar, side_cars
from .result import UNKNOWN, Hints, Match, NoMatch, ProbeResult, RuledOut, Strength, certain
from .weighing import apply_hints, weigh_names, weigh_side_cars, weigh_source

#: Kinds that a file with a pickle's suffix may be of and be one all the same.
_MAY_BE_PICKLES = frozenset({Kind.PICKLE, Kind.ZIP, Kind.UNKNOWN})

#: The caller says nothing.
NO_HINTS = Hints()


def probe(
    path: Path,
    hints: Hints = NO_HINTS,
    *,
    opener: Opener = open_regular,
    check: Callable[[Path], object] = lambda path: None,
    named: Path | None = None,
    said_base: str = "",
) -> ProbeResult:
    """Looks at a model file or folder and says what it is, with its reasons.

    Args:
        path: A safetensors file, whatever its suffix, or a diffusers folder; must exist. What helpers left
            beside a file is read, too.
        hints: What the caller knows: it takes the place of what is found, and is itself evidence.
        opener: Opens the files; the service's refuses what leads outside the allowed roots.
        check: Called with every folder and every link before it is followed; raises to refuse it.
        named: The path that names are taken from, and that side cars lie beside, where it is not ``path``.
        said_base: The base in the source's own words, "SDXL 1.0": weak evidence.

    Returns:
        A result whose ``type`` is ``unknown`` when no family matched: nothing is guessed.

    Raises:
        SourceNotFoundException: There is nothing at the path.
        ForbiddenPathException: The service's user may not read it.
        InvalidModelException: The file is no safetensors file or damaged, or the folder contradicts itself.
        UnsafeFormatException: The weights are pickles.
    """
    path_for_names = named or path
    with reading(path):
        status = path.stat()
    cars: tuple[SideCar, ...] = ()
    if stat.S_ISDIR(status.st_mode):
        listing = list_files(path, check)
        match = _match_folder(Folder(path, listing, opener))
    else:
        listing = Listing({path.name: status.st_size})
        match = _match_file(path, opener)
        cars = side_cars(path_for_names, opener)
    match = weigh_side_cars(weigh_source(match, said_base), cars)
    match = weigh_names(match, path_for_names)
    match = apply_hints(match, hints)
    folder = stat.S_ISDIR(status.st_mode)
    order = list(Strength)
    match = replace(match, evidence=tuple(sorted(match.evidence, key=lambda e: order.index(e.strength))))
    said = {name: value for car in reversed(cars) for name, value in car.said.items()}
    default = default_description(match.type, match.base, str(match.settings.get("variant", "")))
    return ProbeResult(
        match=match,
        name=default_name(path_for_names, folder=folder),
        description=said.pop("description", default),
        said=said,
        size_bytes=total(listing.files.values()),
        files=listing.files,
    )


def _match_file(path: Path, opener: Opener) -> Match:
    suffix = path.suffix.lower()
    content = look(path, opener)
    if content.kind is Kind.PICKLE or (suffix in PICKLE_SUFFIXES and content.kind in _MAY_BE_PICKLES):
        raise unsafe(path)
    if content.kind is Kind.UNKNOWN and suffix not in TENSOR_SUFFIXES:
        raise _no_kind(path, content.what)
    if content.kind in TEXTS and suffix not in TENSOR_SUFFIXES | PICKLE_SUFFIXES | {""}:
        raise _no_kind(path, content.what)
    header = read_header(path, opener)
    how, name = quantisation(header)
    weights = weights_only(header) if how else header
    matches: list[Match] = []
    ruled_out: list[RuledOut] = []
    for family in FILE_KINDS:
        answer = family.match(header if weights is None else weights)
        if isinstance(answer, NoMatch):
            ruled_out.append(answer.of(family.name))
        else:
            matches.append(answer)
    is_plain = weights is not None or [match.type for match in matches] == ["lora"]
    if len(matches) == 1 and is_plain:
        format_ = str(FORMATS.get(how, matches[0].format))
        return replace(matches[0], format=format_, ruled_out=(*matches[0].ruled_out, *ruled_out))
    seen = certain("type=unknown", f"a valid safetensors file of {len(header)} tensors that no family knows")
    if not is_plain:
        why = f"quantised ({how}: it holds {name[:200]}), which cannot be lent"
        ruled_out = [RuledOut("quantised weights", why, near=True, remedy=REMEDY)]
    elif matches:
        seen = certain("type=unknown", f"fits several at once: {', '.join(match.type for match in matches)}")
    elif not any(item.near for item in ruled_out):
        what, name = looks_like(header)
        if what:
            ruled_out.insert(
                0, RuledOut("other kinds", f"{what}, which is not supported yet: {name}", near=True)
            )
    format_ = str(FORMATS.get(how, "checkpoint"))
    return Match(type=UNKNOWN, format=format_, evidence=(seen,), ruled_out=tuple(ruled_out))


def _no_kind(path: Path, what: str) -> InvalidModelException:
    return InvalidModelException(
        f"{path.name} is of no kind that can be installed: a .safetensors file or a diffusers folder. "
        f"It is {what}.",
        metadata={"path": str(path), "detail": what},
        remedy="Name a safetensors file, or the folder of one model.",
    )


def _match_folder(folder: Folder) -> Match:
    lora = lora_in(folder)
    if lora:
        found = _match_file(folder.path / lora, folder._opener)
        match = as_folder(found) if found.type == "lora" else found
    else:
        answer = probe_folder(folder)
        match = answer if isinstance(answer, Match) else _unknown_folder(folder, answer)
    if folder.others:
        shown = listed([f"{name} ({what})" for name, what in folder.others.items()])
        match = replace(
            match, evidence=(*match.evidence, certain("no file", f"no part of the model: {shown}"))
        )
    return match


def _unknown_folder(folder: Folder, answer: NoMatch) -> Match:
    return Match(
        type=UNKNOWN,
        format=UNKNOWN,
        evidence=(certain("type=unknown", f"a folder of {len(folder.files)} files"),),
        ruled_out=(answer.of("diffusers folder"),),
    )
