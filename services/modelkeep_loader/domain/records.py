"""What the loader needs of a model's record, and where records come from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as its record has it: claims, all of them.

    Attributes:
        size_bytes: Its size.
        modify_time: Seconds since 1970; None if the record does not say.
        digest: "blake3:…" or "sha256:…"; empty while not known.
    """

    size_bytes: int
    modify_time: float | None
    digest: str


@dataclass(frozen=True, slots=True)
class Record:
    """What the loader needs of a model's record.

    Attributes:
        revision: Revision of the record.
        type, format: As in the taxonomy: "main", "vae"; "diffusers", "checkpoint".
        path, root_id: As stored.
        config: What is set in the config of its type, by the names of its message.
    """

    key: str
    revision: int
    name: str
    type: str
    format: str
    base: str
    path: str
    root_id: str
    hash: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Removals(NamedTuple):
    """Records that were deleted, and the place after that in their history."""

    resume_token: str
    keys: Sequence[str]


class Records(Protocol):
    """Where records come from."""

    async def get(self, key: str) -> Record:
        """One record.

        Raises:
            UnknownModelException: There is none.
            UpstreamUnavailableException: The service that has it does not answer.
        """
        ...

    async def files(self, key: str) -> Mapping[str, FileFacts]:
        """The model's files, by path relative to the model's folder (or name of the single file)."""
        ...

    async def owner(self, paths: Sequence[str], root_id: str) -> Record | None:
        """The record whose path, as stored, is one of these; the longest if there are several.

        Args:
            paths: At most 64.
            root_id: Root that a relative one must belong to.
        """
        ...


class FollowedRecords(Records, Protocol):
    """Records that tell of deletions."""

    def removals(self, resume_token: str) -> AsyncIterator[Removals]:
        """The records that are deleted from now on, or from a place on; nothing for a while is told, too.

        Raises:
            InvalidRequestException: The place is in another history, or too long ago.
            ModelkeepError: The service that has them does not answer, or ends.
        """
        ...
