"""Which file of a Civitai version is the model, and what else the version has. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from modelkeep.exceptions import NotAModelFileException, UnknownVariantException, UnsafeFormatException
from modelkeep_common.civitai import items, mapping, number, text
from modelkeep_download.domain.refusals import clean
from modelkeep_download.resolve.plans import Choice

#: Types of files that are the model itself.
_MODELS: Final = ("Model", "Pruned Model")
#: Types of files that belong to a model and are none.
_NO_MODELS: Final = frozenset({"config", "training data", "archive", "workflow"})
#: Formats of archives of several files.
_ARCHIVES: Final = frozenset({"diffusers", "coreml"})
_ARCHIVE_NAMES: Final = (".zip", ".7z", ".rar", ".tar", ".gz")
_PICKLE_NAMES: Final = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_SHA256: Final = re.compile("[0-9a-f]{64}")
_DOWNLOAD: Final = re.compile(r"https?://[\w.:-]+/api/download/models/([1-9][0-9]{0,9})(?:\?.*)?")
#: Bytes of an error's text about choices: it travels in a header.
_MAX_TEXT: Final = 2000


@dataclass(frozen=True, slots=True)
class VersionFile:
    """A file of a version, as its answer tells it."""

    id: int
    #: The version that serves it: of an autoencoder that several versions share it is another one.
    version: int
    name: str
    type: str = ""
    format: str = ""
    #: "full" or "pruned".
    size: str = ""
    #: "fp16", "fp32", "bf16", …
    fp: str = ""
    quant: str = ""
    #: In bytes; None where they are told in a rounded way.
    bytes: int | None = None
    #: Lowercase hexadecimal; empty where it is not told.
    sha256: str = ""
    primary: bool = False
    pickle_scan: str = ""
    virus_scan: str = ""
    #: What the scans say; may be empty.
    scanned: str = ""

    @property
    def facts(self) -> str:
        """What tells it apart from others, for people."""
        of_type = () if self.type in _MODELS else (self.type,)
        return ", ".join(filter(None, (*of_type, self.format, self.size, self.fp, self.quant)))

    @property
    def told(self) -> str:
        """Its name, with its facts."""
        return f"{self.name} ({self.facts})" if self.facts else self.name

    @property
    def is_pickle(self) -> bool:
        """Whether reading it may run code."""
        by_name = self.name.lower().endswith(_PICKLE_NAMES)
        return _same(self.format, "PickleTensor") or (by_name and not _same(self.format, "SafeTensor"))

    @property
    def is_archive(self) -> bool:
        """Whether it holds other files."""
        by_name = self.name.lower().endswith(_ARCHIVE_NAMES)
        return by_name or _plain(self.format) in _ARCHIVES or self.type.lower() == "archive"

    @property
    def danger(self) -> str:
        """Which of Civitai's scans found it dangerous; empty if none did."""
        return next(
            (
                name
                for name, found in (("virus", self.virus_scan), ("pickle", self.pickle_scan))
                if found.lower() == "danger"
            ),
            "",
        )

    def path(self) -> str:
        """What to ask a site for it: one file, whatever the preferences of an account are."""
        told = {"type": self.type, "format": self.format, "size": self.size, "fp": self.fp}
        told |= {"quantType": self.quant, "fileId": str(self.id or "")}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in told.items() if value)
        return f"/api/download/models/{self.version}" + (f"?{query}" if query else "")

    def choice(self, origin: str, *, chosen: bool = False) -> Choice:
        """The file as a choice; `origin` is that of the site."""
        return Choice("file", self.told, f"{origin}{self.path()}", self.bytes, chosen)


def files_of(version: Mapping[str, Any], version_id: int) -> list[VersionFile]:
    """The files that a version's answer lists, those without a name left out."""
    return [file for told in items(version.get("files")) if (file := _file(told, version_id)).name]


def _file(told: Mapping[str, Any], version_id: int) -> VersionFile:
    facts = mapping(told.get("metadata"))
    sha256 = text(mapping(told.get("hashes")).get("SHA256")).lower()
    address = told.get("downloadUrl")
    served = _DOWNLOAD.fullmatch(address) if isinstance(address, str) else None
    messages = (clean(text(told.get(name))) for name in ("virusScanMessage", "pickleScanMessage"))
    return VersionFile(
        id=number(told.get("id")),
        version=int(served[1]) if served else version_id,
        name=text(told.get("name")),
        type=text(told.get("type"))[:64],
        format=text(facts.get("format") or told.get("format"))[:64],
        size=text(facts.get("size"))[:64],
        fp=text(facts.get("fp"))[:64],
        quant=text(facts.get("quantType"))[:64],
        bytes=_bytes(told.get("sizeKB")),
        sha256=sha256 if _SHA256.fullmatch(sha256) else "",
        primary=told.get("primary") is True,
        pickle_scan=text(told.get("pickleScanResult"))[:64],
        virus_scan=text(told.get("virusScanResult"))[:64],
        scanned="; ".join(filter(None, messages)),
    )


def _bytes(kib: object) -> int | None:
    """A size in bytes of one in KiB, if that is not rounded."""
    if isinstance(kib, bool) or not isinstance(kib, int | float) or not math.isfinite(kib):
        return None
    exact = kib * 1024
    return int(exact) if 0 < exact < 1 << 53 and exact == int(exact) else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file, and why this one."""

    file: VersionFile
    variant: str
    reasons: Sequence[str]


def choose(
    files: Sequence[VersionFile], wanted: Sequence[tuple[str, str]], variant: str, source: str, host: str
) -> Chosen:
    """The file of a version that is the model.

    Of those that fit what is wanted safetensors come before all else, the version's primary file before
    others, a full one before a pruned one.

    Args:
        files: What the version has.
        wanted: Parameters of a download link.
        variant: An `fp`, `size`, `format` or quantisation, in any case; may be empty.
        source: The version, for people.
        host: Who says so.

    Raises:
        UnknownVariantException: None fits what is wanted.
        NotAModelFileException: What fits is no model, or an archive.
        UnsafeFormatException: The host's own scan found what fits to be dangerous.
    """
    fitting = [file for file in files if _fits(file, wanted)]
    if not any(name in ("type", "fileId") for name, _ in wanted):
        fitting = [file for file in fitting if file.type in _MODELS or not file.type]
    if variant:
        fitting = [
            file
            for file in fitting
            if any(_same(variant, fact) for fact in (file.fp, file.size, file.format, file.quant))
        ]
    if not fitting:
        raise _none_fits(files, wanted, variant, source)
    ranked = sorted(fitting, key=_rank)
    best = ranked[0]
    _check(best, host)
    reasons = list(_reasons(best, ranked, host, asked=bool(wanted or variant)))
    shown = variant or (best.fp if len(ranked) > 1 and best.fp != "fp32" else "")
    return Chosen(best, shown, reasons)


def _rank(file: VersionFile) -> tuple[Any, ...]:
    formats = (_same(file.format, "SafeTensor"), not (file.is_pickle or file.is_archive), file.is_pickle)
    return (
        bool(file.danger),
        formats.index(True) if True in formats else len(formats),
        not file.primary,
        _same(file.size, "pruned") or file.type == "Pruned Model",
        file.id,
    )


def _reasons(best: VersionFile, ranked: Sequence[VersionFile], host: str, *, asked: bool) -> Sequence[str]:
    others = len(ranked) - 1
    told: list[str] = []
    if asked and not others:
        told.append(f"{best.told} is the one file that was asked for.")
    elif not others:
        told.append(f"{best.told} is the version's one model file.")
    elif best.primary:
        told.append(f"{best.told} is the version's primary file, of {len(ranked)} that fit.")
    else:
        told.append(
            f"{best.told} comes first of {len(ranked)} that fit: safetensors before pickles, full before"
            " pruned."
        )
    if best.is_pickle:
        told.append("It is a pickle, which may run code when it is read: an install refuses it.")
    elif any(file.is_pickle for file in ranked):
        told.append("Pickles are left aside, since they may run code when they are read.")
    if any(file.danger for file in ranked):
        told.append(f"Files that {host} found to be dangerous are left aside.")
    pending = [
        found for found in (best.virus_scan, best.pickle_scan) if found.lower() in ("pending", "error")
    ]
    if pending:
        told.append(f"{host} has not scanned it: {pending[0]}.")
    return told


def _check(file: VersionFile, host: str) -> None:
    if file.danger:
        says = f' and says "{file.scanned}"' if file.scanned else ""
        raise UnsafeFormatException(
            f"{host} found {file.name} to be dangerous in its {file.danger} scan{says}.",
            metadata={"path": file.name, "format": file.format},
            remedy="Take another version of the model, or another model.",
        )
    if file.type.lower() in _NO_MODELS or file.is_archive:
        what, kind = file.format or file.type, "an archive" if file.is_archive else "no model"
        raise NotAModelFileException(
            f"{file.name} is {kind} ({what}), which cannot be installed.",
            metadata={"host": host, "content_type": "", "detail": what},
            remedy="Take another file of the version, or unpack it and give the path of what is inside.",
        )


def _fits(file: VersionFile, wanted: Sequence[tuple[str, str]]) -> bool:
    has = {
        "type": file.type,
        "format": file.format,
        "size": file.size,
        "fp": file.fp,
        "quantType": file.quant,
        "fileId": str(file.id or ""),
    }
    return all(_same(value, has[name]) for name, value in wanted)


def _none_fits(
    files: Sequence[VersionFile], wanted: Sequence[tuple[str, str]], variant: str, source: str
) -> UnknownVariantException:
    asked = " ".join(filter(None, [*(f"{name}={value[:64]}" for name, value in wanted), variant]))
    names = listed([file.told for file in files])
    what = f"no file that is {clean(asked)}" if asked else "no model among its files"
    return UnknownVariantException(
        f"{source} has {what}.",
        metadata={"source": source, "variant": clean(asked), "available": names},
        remedy=f"It has {names}." if names else "Take another version of the model.",
    )


def listed(names: Sequence[str]) -> str:
    """Names one after the other, with semicolons, cut to what an error can carry."""
    told = ""
    for name in map(clean, names):
        if len(told.encode()) + len(name.encode()) > _MAX_TEXT:
            return f"{told}; …"
        told = f"{told}; {name}" if told else name
    return told


def _plain(fact: str) -> str:
    return re.sub("[^a-z0-9]", "", fact.lower()).removesuffix("s")


def _same(one: str, other: str) -> bool:
    """Whether two facts are one: "safetensors" is "SafeTensor"."""
    return _plain(one) == _plain(other) != ""
