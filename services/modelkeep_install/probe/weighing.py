"""What the names of files and the caller say, beside what the files show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelkeep.configs import formats_of
from modelkeep.taxonomy import ModelType
from modelkeep_common.families import BY_BASE

from .matching.vae import narrow
from .names import base_from_name, base_from_words
from .readers.sidecars import SideCar
from .result import UNKNOWN, Hints, Match, Strength, likely, weak

#: What a model of a type without "checkpoint" or "diffusers" has as one file and as a folder.
_FORMATS_OF_FILES = ("checkpoint", "lycoris", "embedding_file")
_FORMATS_OF_FOLDERS = ("diffusers", "embedding_folder", "onnx")


def weigh_source(match: Match, said: str, who: str = "the source") -> Match:
    """Lets somebody's own word for the base choose among those that the files leave open."""
    if match.type == UNKNOWN or match.base != UNKNOWN:
        return match
    base = base_from_words(said, match.possible_bases)
    return narrow(match, (base,), weak(f"base={base}", f"{who} says {said!r}")) if base else match


def weigh_side_cars(match: Match, cars: Sequence[SideCar]) -> Match:
    """Lets the files beside a model choose among bases that are open; what each tells joins the evidence."""
    for car in cars:
        seen = weak("no side car" if car.trouble else "side car", car.summary)
        match = weigh_source(replace(match, evidence=(*match.evidence, seen)), car.base, car.name)
    return match


def weigh_names(match: Match, path: Path) -> Match:
    """Lets the file's and folders' names choose among bases that the files leave open."""
    if match.type == UNKNOWN:
        return match
    if match.base != UNKNOWN:
        return _heed_lookalikes(match, path)
    named = base_from_name(path, match.possible_bases)
    if named is None:
        return match
    base, words = named
    return narrow(match, (base,), weak(f"base={base}", f"the name {words!r}"))


def _heed_lookalikes(match: Match, path: Path) -> Match:
    """Leaves a base open that is only likely, where the names speak of a family that looks the same."""
    base = f"base={match.base}"
    if any(e.finding == base and e.strength is Strength.CERTAIN for e in match.evidence):
        return match
    for name, words in BY_BASE[match.base].lookalikes.items():
        if re.search(words, f"{path.parent.name}/{path.name}", re.IGNORECASE):
            seen = weak("base=unknown", f"the name speaks of {name}, whose layers are the same")
            return replace(match, base=UNKNOWN, evidence=(*match.evidence, seen))
    return match


def apply_hints(match: Match, hints: Hints) -> Match:
    """What the caller says takes the place of what was found; a contradiction stays visible as evidence."""
    if not hints.any():
        return match
    known_base = match.base
    if hints.base and hints.base != known_base:
        # what fitted the base that the names spoke of says nothing about the one that the caller knows
        match = replace(match, base=UNKNOWN, compatible_bases=())
        match = narrow(match, (hints.base,), likely(f"base={hints.base}", "the caller says so"))
    evidence = list(match.evidence)
    for what, said, found in (
        ("type", hints.type, match.type),
        ("base", hints.base, known_base if match.base == UNKNOWN else match.base),
        ("format", hints.format, match.format),
    ):
        if said and said != found:
            against = "" if found == UNKNOWN else f", although the files say {found}"
            evidence.append(likely(f"{what}={said}", f"the caller says so{against}"))
    match = replace(match, evidence=tuple(evidence))
    if hints.type and hints.type != match.type:
        format_ = _format_that_fits(hints.type, match.format)
        match = Match(type=hints.type, format=format_, evidence=match.evidence, ruled_out=match.ruled_out)
    base = hints.base or match.base
    return replace(
        match,
        base=base,
        format=hints.format or match.format,
        compatible_bases=tuple(other for other in match.compatible_bases if other != base),
    )


def _format_that_fits(type_: str, found: str) -> str:
    """The format that was found if such a model may have it, else the one that it has as a file or folder."""
    formats = formats_of(ModelType(type_)) if type_ in set(ModelType) else []
    is_folder = found in (UNKNOWN, "diffusers")
    wanted = (found, *(_FORMATS_OF_FOLDERS if is_folder else _FORMATS_OF_FILES), *formats)
    return next((str(format_) for format_ in wanted if format_ in formats), found)
