"""The root of the tree of errors, which modelkeep.exceptions draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path as in the .proto (``model.name``), and what is wrong with it."""

    field: str
    description: str


class ModelkeepError(Exception):
    """Base of the tree.

    Args:
        message: One sentence for a person: what is wrong and what to do about it. No secrets.
        metadata: Machine-readable facts; every value named in the message is here too.
        violations: The bad fields, for the INVALID_ARGUMENT reasons.
        retry_after: Seconds after which a new try makes sense, or None.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations: tuple[FieldViolation, ...] = tuple(violations)
        self.retry_after = retry_after

    def __str__(self) -> str:
        if not self.violations:
            return self.message
        return "; ".join([self.message, *(f"{v.field}: {v.description}" for v in self.violations)])
