"""What a probe answers, and the vocabulary of its families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator

UNKNOWN = "unknown"


class Strength(StrEnum):
    """How much a piece of evidence weighs."""

    #: Names and shapes of tensors, or a class name in a config: no other known kind has it.
    CERTAIN = "certain"
    #: A setting in a config or a note in a header, which its writer may have left wrong.
    LIKELY = "likely"
    #: A name of a file or folder, or what a source or a file beside the model says.
    WEAK = "weak"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation, and what it speaks for: ``base=sdxl``."""

    finding: str
    observation: str
    strength: Strength


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A candidate that does not fit, and why; ``near`` and ``remedy`` as in ``NoMatch``."""

    candidate: str
    why: str
    near: bool = False
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    """What the caller says about the model; it wins over what is found, here and in the record."""

    type: str = ""
    base: str = ""
    format: str = ""

    @classmethod
    def of(cls, overrides: Mapping[str, Any]) -> Hints:
        """Those among what a caller wants in the record."""
        return cls(**{name: str(overrides[name]) for name in ("type", "base", "format") if name in overrides})

    def any(self) -> bool:
        return bool(self.type or self.base or self.format)


@dataclass(frozen=True, slots=True)
class Match:
    """A family recognised the model.

    ``base`` is ``unknown`` where the files leave several ``possible_bases``; weak evidence, and then the
    caller, may choose among them.
    """

    type: str
    format: str
    base: str = UNKNOWN
    possible_bases: tuple[str, ...] = ()
    compatible_bases: tuple[str, ...] = ()
    #: Fields of the config of such a model, by their names, as far as the files tell them.
    settings: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()


@dataclass(frozen=True, slots=True)
class NoMatch:
    """A family did not recognise the model: the first thing that does not fit.

    ``near``: it is something of this kind all the same, which is not known, or not supported. ``remedy`` is
    what to do in place of saying what it is.
    """

    why: str
    near: bool = False
    remedy: str = ""

    def of(self, candidate: str) -> RuledOut:
        """The same, said of a candidate."""
        return RuledOut(candidate, self.why, self.near, self.remedy)


def _with_settings(match: Any) -> Any:
    """As it is; of a match that was stored with its settings beside the rest, in their place."""
    if not isinstance(match, dict) or "settings" in match:
        return match
    known = {item.name for item in fields(Match)}
    told = {name: value for name, value in match.items() if value or value is False}
    return match | {"settings": {name: told[name] for name in told.keys() - known}}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer: a match with names and sizes, or ``type == "unknown"`` with what was ruled out."""

    match: Annotated[Match, BeforeValidator(_with_settings)]
    name: str
    description: str
    size_bytes: int
    #: Files relative to the model's folder (or the file's name), sorted, with their sizes in bytes.
    files: Mapping[str, int] = field(default_factory=dict)
    #: Further fields of the record, as the files beside the model tell them: license, tags, source_url.
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.match.type

    @property
    def base(self) -> str:
        return self.match.base

    @property
    def format(self) -> str:
        return self.match.format

    @property
    def known(self) -> bool:
        """Whether the type is known; a base may still be open, with its candidates listed."""
        return self.match.type != UNKNOWN


def certain(finding: str, observation: str) -> Evidence:
    return Evidence(finding, observation, Strength.CERTAIN)


def likely(finding: str, observation: str) -> Evidence:
    return Evidence(finding, observation, Strength.LIKELY)


def weak(finding: str, observation: str) -> Evidence:
    return Evidence(finding, observation, Strength.WEAK)
