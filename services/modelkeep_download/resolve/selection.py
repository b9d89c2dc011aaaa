"""Which files of a repository make up the model that is asked for, and why. Pure.

What a diffusers pipeline takes is diffusers' own rule, which the tests compare it with; a folder of one
component, single files and quantisations have rules of their own here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from modelkeep.exceptions import ModelkeepError, SourceNotFoundException, UnsafeFormatException
from modelkeep_download.resolve.components import PEFT, component_folders, flat, index_path, pipeline
from modelkeep_download.resolve.listing import (
    PICKLES,
    Entry,
    beneath,
    counted,
    directly_in,
    folders_of,
    listed,
    size_of,
    usable,
)
from modelkeep_download.resolve.picks import Pick, ambiguous, check_variant
from modelkeep_download.resolve.plans import Choice
from modelkeep_download.resolve.singles import Single, singles_of, well_known
from modelkeep_download.resolve.weights import LENIENT, FolderWeights

#: Choices of one kind that a plan names.
_MAX_CHOICES: Final = 100
_CONFIG: Final = "config.json"
_EXPLAINED: Final = "image_encoder.txt"


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a model, and what else there is."""

    files: Sequence[Entry]
    #: Folder of the repository that the model's own paths begin beneath.
    base: str = ""
    is_folder: bool = True
    #: The variant that was taken; empty for full precision.
    variant: str = ""
    reasons: Sequence[str] = ()
    choices: Sequence[Choice] = ()
    code_files: Sequence[str] = ()


@dataclass(frozen=True)
class Repo:
    """What can be selected from.

    Args:
        entries: The listing.
        spell: How a path of it, or the whole of it (""), is written as a source.
    """

    entries: Sequence[Entry]
    spell: Callable[[str], str]
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Sequence[Entry], spell: Callable[[str], str]) -> Repo:
        """Of a listing as it came."""
        named, reasons = usable(entries)
        unsafe = [entry.path for entry in named if entry.is_unsafe]
        if unsafe:
            reasons.append(f"The hub's scanners call {listed(unsafe)} unsafe: left out.")
        return cls(named, spell, reasons)

    @cached_property
    def fit(self) -> list[Entry]:
        """Without what the scanners warn of."""
        return [entry for entry in self.entries if not entry.is_unsafe]

    def base(self, path: str) -> str:
        """The folder that holds the model: the one that is asked for, or the only one in it that does.

        Raises:
            SourceNotFoundException: There is no such folder.
        """
        within = beneath(self.fit, path)
        if path and not within:
            raise self._absent(path)
        if _is_model(directly_in(within, path)):
            return path
        folders, singles = self._units(path)
        return folders[0] if len(folders) == 1 and not singles else path

    def index(self, path: str) -> str:
        """Path of the model_index.json that the selection needs to know; empty if none."""
        return "" if self.file(path) else index_path(self.fit, self.base(path))

    def file(self, path: str) -> Entry | None:
        """The one file that a path names, if it names one."""
        return next((entry for entry in self.entries if path and entry.path == path), None)

    def _units(self, path: str) -> tuple[list[str], list[Single]]:
        """The folders beneath a path that hold models, and the models of one file outside of them."""
        within = [entry for entry in beneath(self.fit, path) if not entry.is_training_state]
        folders = component_folders(within)
        inside = set(folders)
        outside = [entry for entry in within if inside.isdisjoint(folders_of(entry))]
        return folders, singles_of(outside)

    def _absent(self, path: str) -> SourceNotFoundException:
        top = sorted({entry.path.partition("/")[0] for entry in self.entries if not entry.is_for_people})
        there = f"; at the top there are {listed(top, 20)}" if top else ""
        return SourceNotFoundException(
            f"There is no file or folder {path!r} in {self.spell('')}{there}.",
            metadata={"source": self.spell(""), "path": path},
            remedy="Name a folder or a file of the repository as it is spelled there.",
        )

    def select(self, path: str, variant: str, index: Mapping[str, Any] | None) -> Selection:
        """The files of the model.

        Args:
            path: Folder or file that is asked for; empty for all of the repository.
            variant: See RemoteSource.
            index: What stands in the file that `index` names.

        Raises:
            SourceNotFoundException: There is nothing to fetch.
            AmbiguousSourceException: There are several models.
            UnknownVariantException: It has no such variant.
            UnsafeFormatException: The hub calls the file unsafe.
        """
        if file := self.file(path):
            return self._file(file)
        base = self.base(path)
        here = directly_in(self.fit, base)
        if index is not None:
            pick = pipeline(beneath(self.fit, base), base, index, variant, self.spell(base))
        elif _is_model(here):
            pick = flat(beneath(self.fit, base), base, variant, self.spell(base))
        else:
            return self._single(path, base, variant)
        if not pick.files:
            raise self._nothing(base)
        return self._of(pick, path, base)

    def _of(self, pick: Pick, path: str, base: str) -> Selection:
        reasons = [*([f"The model is in the folder {base}."] if base != path else []), *pick.reasons]
        within = beneath(self.entries, base)
        code = sorted(entry.path for entry in within if entry.is_code and pick.may_have(entry))
        if code:
            reasons.append(f"Code that comes with it is not fetched: {listed(code)}.")
        taken = {entry.path for entry in pick.files}
        others = [
            single
            for single in singles_of(directly_in(self.fit, base))
            if not any(entry.path in taken or pick.covers(entry) for entry in single.entries)
        ]
        if others:
            names = [entry.name for single in others for entry in single.of(single.default or "")[:1]]
            kept = f": {listed(names)}" if names else ""
            reasons.append(f"{counted(len(others), 'single file')} beside it left out{kept}.")
        choices = [*pick.choices, *self._subfolders(base), *self._choices(others)]
        return Selection(
            sorted(pick.files, key=lambda entry: entry.path),
            base,
            variant=pick.variant,
            reasons=[*reasons, *_warnings(pick.files), *self.reasons],
            choices=choices,
            code_files=code,
        )

    def _file(self, entry: Entry) -> Selection:
        if entry.is_unsafe:
            raise self._unsafe(entry)
        reasons = ["It is the one file that is asked for.", *_warnings([entry])]
        return Selection([entry], entry.folder, is_folder=False, reasons=reasons)

    def _single(self, path: str, base: str, variant: str) -> Selection:
        folders, singles = self._units(base)
        chosen = well_known(singles, base) or (singles[0] if len(singles) == 1 and not folders else None)
        if chosen is None and (singles or folders):
            raise ambiguous(self.spell(base), [*self._folders(folders), *self._choices(singles)])
        if chosen is None:
            side = [entry for entry in directly_in(self.fit, base) if entry.is_side_file]
            if not base or not side:
                raise self._nothing(base)
            return Selection(
                side, base, reasons=["A folder without weights: all of its files.", *self.reasons]
            )
        files, taken, reasons = self._variant_of(chosen, variant)
        files += [entry for entry in self.fit if entry.path in _indexes(chosen, files)]
        explained = [entry for entry in directly_in(self.fit, base) if entry.name == _EXPLAINED]
        if explained and chosen.stem == "ip_adapter":
            reasons.append(f"{_EXPLAINED} tells which image encoder it needs.")
            files = [*files, *explained]
        others = [one for one in singles if one is not chosen]
        choices = [
            *(
                Choice("variant", name or "default", size=size_of(chosen.of(name)), chosen=name == taken)
                for name in (chosen.variants if len(chosen.variants) > 1 else ())
            ),
            *self._folders(folders),
            *self._choices(others),
        ]
        return Selection(
            files,
            files[0].folder,
            is_folder=len(files) > 1,
            variant=taken,
            reasons=[*reasons, *_warnings(files), *self.reasons],
            choices=choices,
        )

    def _variant_of(self, single: Single, variant: str) -> tuple[list[Entry], str, list[str]]:
        reasons = ["The only model in it is a single file."]
        asked = None if not variant else single.named(variant)
        default = single.default
        if asked is None and default is None:
            choices = [
                Choice("variant", name, size=size_of(single.of(name))) for name in sorted(single.variants)
            ]
            if variant not in LENIENT:
                check_variant(variant, choices, self.spell(single.folder))
            raise ambiguous(self.spell(single.folder), choices)
        if asked is None:
            assert default is not None
            if variant not in LENIENT:
                there = [Choice("variant", name or "default") for name in sorted(single.variants)]
                check_variant(variant, there, self.spell(single.folder))
            if variant == "fp16":
                reasons.append("There is no fp16 file: what there is is taken.")
        name = default if asked is None else asked
        assert name is not None
        files = single.of(name)
        left = sorted({entry.suffix for entry in single.entries} - {files[0].suffix})
        if left:
            reasons.append(f"The same in {listed(left)} is left out: {files[0].suffix} is taken first.")
        return list(files), "" if name.casefold() in ("", "fp32") else name, reasons

    def _unsafe(self, entry: Entry) -> UnsafeFormatException:
        return UnsafeFormatException(
            f"The hub's scanners call {entry.path} unsafe: it is not fetched.",
            metadata={"path": entry.path, "format": entry.suffix},
            remedy="Take the model in safetensors, or from another source.",
        )

    def _subfolders(self, base: str) -> list[Choice]:
        within = [entry for entry in beneath(self.fit, base) if not entry.is_training_state]
        return self._folders([folder for folder in component_folders(within) if folder != base])

    def _folders(self, folders: Sequence[str]) -> list[Choice]:
        found = []
        for folder in folders[:_MAX_CHOICES]:
            best = FolderWeights(directly_in(self.fit, folder)).best()
            size = size_of(best.files) if best else size_of(beneath(self.fit, folder))
            found.append(Choice("subfolder", folder, self.spell(folder), size))
        return found

    def _choices(self, singles: Sequence[Single]) -> list[Choice]:
        found = []
        for single in singles[:_MAX_CHOICES]:
            names = [single.default] if single.default is not None else sorted(single.variants)
            for name in names[:_MAX_CHOICES]:
                file = single.of(name)[0]
                found.append(Choice("file", file.path, self.spell(file.path), size_of(single.of(name))))
        return found[:_MAX_CHOICES]

    def _nothing(self, base: str) -> ModelkeepError:
        for entry in beneath(self.entries, base):
            if entry.is_unsafe:
                return self._unsafe(entry)
        why = f" {self.reasons[0]}" if self.reasons else ""
        return SourceNotFoundException(
            f"There are no weights of a model in {self.spell(base)}.{why}",
            metadata={"source": self.spell(base), "path": base},
            remedy="Name a repository, a folder or a file that holds a model.",
        )


def _is_model(here: Sequence[Entry]) -> bool:
    """Whether files that lie in one folder are a pipeline's or a component's."""
    names = {entry.name for entry in here}
    if "model_index.json" in names:
        return True
    return bool({_CONFIG, *PEFT} & names) and bool(FolderWeights(here))


def _indexes(single: Single, files: Sequence[Entry]) -> set[str]:
    """Where the index of a file that is cut would be."""
    if len(files) < 2:
        return set()
    name = f"{single.stem}.{files[0].suffix}.index.json"
    return {f"{single.folder}/{name}".lstrip("/")}


def _warnings(files: Sequence[Entry]) -> list[str]:
    odd = [entry.path for entry in files if entry.verdict in ("suspicious", "caution")]
    told = [f"The hub's scanners call {listed(odd)} suspicious."] if odd else []
    pickles = [entry.path for entry in files if entry.suffix in PICKLES and "openvino" not in entry.name]
    if not pickles:
        return told
    verb = "is a pickle" if len(pickles) == 1 else "are pickles"
    return [
        *told,
        f"{listed(pickles)} {verb}, which can hold code: there is no safetensors file in its place.",
    ]
