"""The root of the exceptions in exceptions.py, and the bad fields that they tell of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from modelkeep.reasons import remedy_of

#: Bad fields that a message names, and characters that it spends on one and on all of them.
_TOLD_FIELDS, _TOLD_FIELD, _TOLD = 5, 300, 600
#: A description that goes on from the field's name.
_PREDICATE = re.compile(r"(must|is|are|has|have|had|cannot|may|names?|belongs?|needs?|takes|ends|holds)\b")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path as in the .proto (``model.name``), and what is wrong with it."""

    field: str
    description: str

    @property
    def words(self) -> str:
        """What is wrong, in words: "type must be set"."""
        name = self.field.removeprefix("model.")
        if not name:
            return self.description
        return f"{name}{' ' if _PREDICATE.match(self.description) else ': '}{self.description}"


class ModelkeepError(Exception):
    """Base of the tree.

    Args:
        message: One sentence for a person: what is wrong. No secrets. Where there are violations it may be
            empty, or say what they keep from being done; the first of them follow in words.
        metadata: Machine-readable facts; every value named in the message is here too. The keys are those of
            the reason in modelkeep.reasons.
        violations: The bad fields, for the INVALID_ARGUMENT reasons.
        retry_after: Seconds after which a new try makes sense, or None.
        remedy: What to do about it, as a sentence; "": what helps in every case of this reason.
    """

    reason: ClassVar[str] = "INTERNAL"
    code: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_after: float | None = None,
        remedy: str = "",
    ) -> None:
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.message = _with_fields(message, self.violations)
        super().__init__(self.message)
        self.metadata: dict[str, str] = dict(metadata or {})
        if self.violations:
            fields = ",".join(dict.fromkeys(violation.field for violation in self.violations))
            self.metadata.setdefault("fields", fields[:500])
        if remedy:
            self.metadata["remedy"] = remedy
        self.retry_after = retry_after

    @property
    def remedy(self) -> str:
        """What to do about it, as a sentence; "" if nothing is known."""
        return remedy_of(self.reason, self.metadata)

    @property
    def facts(self) -> dict[str, str]:
        """The metadata, with what to do about it: what a status or a job's error carries."""
        remedy = self.remedy
        return {**self.metadata, "remedy": remedy} if remedy else dict(self.metadata)

    def __str__(self) -> str:
        remedy = self.remedy
        if not remedy or remedy in self.message:
            return self.message
        end = "" if self.message.endswith((".", "!", "?", "…")) else "."
        return f"{self.message}{end} {remedy}".lstrip(". ")


def _with_fields(message: str, violations: Sequence[FieldViolation]) -> str:
    """A message that names the first bad fields, unless it does so by itself, as one from the wire does."""
    if not violations or (message and _clipped(violations[0].description) in message):
        return message
    told: list[str] = []
    for violation in violations[:_TOLD_FIELDS]:
        told.append(_clipped(violation.words))
        if sum(map(len, told)) > _TOLD:
            break
    if len(told) < len(violations):
        told.append(f"and {len(violations) - len(told)} more")
    words = "; ".join(told)
    return f"{message.rstrip('.')}: {words}" if message else words


def _clipped(text: str) -> str:
    return text if len(text) <= _TOLD_FIELD else text[: _TOLD_FIELD - 1] + "…"
