"""The probe: type, base, format and more of a model on disk, from headers and configs only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelkeep.configs import formats_of
from modelkeep.exceptions import InvalidModelException
from modelkeep.taxonomy import ModelType
from modelkeep_common.families import BY_BASE
from modelkeep_common.wire import total

from ..domain.system_errors import cannot_read, reading
from .matching import FILE_KINDS
from .matching.pipeline import as_folder, lora_in, probe_folder
from .matching.vae import narrow
from .names import base_from_name, default_description, default_name
from .readers.folder import PICKLE_SUFFIXES, Folder, unsafe
from .readers.headers import Opener, open_regular, read_header
from .result import UNKNOWN, Hints, Match, NoMatch, ProbeResult, RuledOut, Strength, certain, likely, weak

#: More files than any model has: a folder of them is a whole collection, or a mistake.
MAX_FILES = 10_000
#: Hidden files and folders too, which are not listed and take their time all the same.
_MAX_ENTRIES = 10 * MAX_FILES
_MAX_DEPTH = 8

#: What a model of a type without "checkpoint" or "diffusers" has as one file and as a folder.
_FORMATS_OF_FILES = ("checkpoint", "lycoris", "embedding_file")
_FORMATS_OF_FOLDERS = ("diffusers", "embedding_folder", "onnx")

#: The caller says nothing.
NO_HINTS = Hints()


def probe(
    path: Path,
    hints: Hints = NO_HINTS,
    *,
    opener: Opener = open_regular,
    check: Callable[[Path], object] = lambda path: None,
    named: Path | None = None,
) -> ProbeResult:
    """Looks at a model file or folder and says what it is, with its reasons.

    Args:
        path: A ``.safetensors`` file or a diffusers folder; must exist.
        hints: What the caller knows: it takes the place of what is found, and is itself evidence.
        opener: Opens the files; the service's refuses what leads outside the allowed roots.
        check: Called with every folder and every link before it is followed; raises to refuse it.
        named: The path that names are taken from, where it is not ``path``.

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
    if stat.S_ISDIR(status.st_mode):
        files = list_files(path, check)
        match = _match_folder(Folder(path, files, opener))
    else:
        files = {path.name: status.st_size}
        match = _match_file(path, opener)
    match = _weigh_names(match, path_for_names)
    match = apply_hints(match, hints)
    folder = stat.S_ISDIR(status.st_mode)
    order = list(Strength)
    match = replace(match, evidence=tuple(sorted(match.evidence, key=lambda e: order.index(e.strength))))
    return ProbeResult(
        match=match,
        name=default_name(path_for_names, folder=folder),
        description=default_description(match.type, match.base, str(match.settings.get("variant", ""))),
        size_bytes=total(files.values()),
        files=files,
    )


def list_files(folder: Path, check: Callable[[Path], object] = lambda path: None) -> dict[str, int]:
    """Files under a folder by relative path with ``/``, sorted, with their sizes in bytes.

    Links to files count as what they lead to (caches are made of them); links to folders are not entered.
    Hidden files and folders (``.git``, ``.cache``) are no part of a model.

    Raises:
        InvalidModelException: More or deeper than any model, or a file that cannot be looked at.
    """
    files: dict[str, int] = {}
    entries = 0

    def unreadable(error: OSError) -> None:
        raise cannot_read(Path(os.fsdecode(error.filename or folder)), error) from error

    for current, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(current)
        check(here)
        entries += len(folders) + len(names)
        if entries > _MAX_ENTRIES:
            raise _no_model(folder, f"more than {_MAX_ENTRIES:,} files and folders")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if folders and len(here.relative_to(folder).parts) >= _MAX_DEPTH:
            raise _no_model(folder, f"folders more than {_MAX_DEPTH} deep")
        for name in names:
            if name.startswith("."):
                continue
            file = here / name
            relative = file.relative_to(folder).as_posix()
            try:
                relative.encode()
            except UnicodeEncodeError as error:
                raise InvalidModelException(
                    f"{folder} holds a file whose name is no UTF-8: {relative!a}. Rename or remove it.",
                    metadata={"path": str(folder), "detail": "file name is no UTF-8"},
                ) from error
            with reading(file):
                status = file.lstat()
            if stat.S_ISLNK(status.st_mode):  # what is no link lies where its folder lies
                check(file)
                with reading(file):
                    status = file.stat()
            if stat.S_ISREG(status.st_mode):
                files[relative] = status.st_size
            if len(files) > MAX_FILES:
                raise _no_model(folder, f"more than {MAX_FILES:,} files")
    return dict(sorted(files.items()))


def _no_model(folder: Path, has: str) -> InvalidModelException:
    return InvalidModelException(
        f"{folder} has {has}, as no model does: name the folder of one model.",
        metadata={"path": str(folder), "detail": has},
    )


def _match_file(path: Path, opener: Opener) -> Match:
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise unsafe(path)
    if suffix != ".safetensors":
        raise InvalidModelException(
            f"{path.name} is of no kind that can be installed: a .safetensors file or a diffusers folder.",
            metadata={"path": str(path), "detail": f"suffix {suffix or 'missing'}"},
        )
    header = read_header(path, opener)
    matches: list[Match] = []
    ruled_out: list[RuledOut] = []
    for family in FILE_KINDS:
        answer = family.match(header)
        if isinstance(answer, NoMatch):
            ruled_out.append(RuledOut(family.name, answer.why, answer.near))
        else:
            matches.append(answer)
    if len(matches) == 1:
        return replace(matches[0], ruled_out=(*matches[0].ruled_out, *ruled_out))
    seen = certain("type=unknown", f"a valid safetensors file of {len(header)} tensors that no family knows")
    if matches:
        seen = certain("type=unknown", f"fits several at once: {', '.join(match.type for match in matches)}")
    return Match(type=UNKNOWN, format="checkpoint", evidence=(seen,), ruled_out=tuple(ruled_out))


def _match_folder(folder: Folder) -> Match:
    lora = lora_in(folder)
    if lora:
        found = _match_file(folder.path / lora, folder._opener)
        return as_folder(found) if found.type == "lora" else found
    answer = probe_folder(folder)
    if isinstance(answer, Match):
        return answer
    return Match(
        type=UNKNOWN,
        format=UNKNOWN,
        evidence=(certain("type=unknown", f"a folder of {len(folder.files)} files"),),
        ruled_out=(RuledOut("diffusers folder", answer.why),),
    )


def _weigh_names(match: Match, path: Path) -> Match:
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
