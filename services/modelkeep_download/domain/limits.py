"""What callers have limited, beside the settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: Queues that may have a number of their own.
MAX_QUEUES = 1000


#: The limits that are one number each, by name.
_NUMBERS: Final = (
    "max_parallel_downloads",
    "max_bytes_per_second",
    "max_connections_per_file",
    "max_connections_per_host",
    "max_connections",
)
#: Of which 0 is a limit like another, and not the settings' own.
_OR_NONE: Final = "max_bytes_per_second"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many downloads run at once, how fast, over how many connections; None: as the settings say."""

    #: Of all queues together.
    max_parallel_downloads: int | None = None
    #: Of all downloads together; 0: no limit.
    max_bytes_per_second: int | None = None
    #: Downloads at once of a queue, for those that have a number of their own.
    queues: Mapping[str, int] = field(default_factory=dict)
    #: Connections at once, at most.
    max_connections_per_file: int | None = None
    max_connections_per_host: int | None = None
    max_connections: int | None = None

    def over(self, settings: Limits) -> Limits:
        """These, and where they say nothing, the settings."""
        unsaid = {name: getattr(settings, name) for name in _NUMBERS if getattr(self, name) is None}
        return replace(self, **unsaid)


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """What a SetLimits changes; None: it stays. Of all but the bytes a second 0 is: as the settings say."""

    max_parallel_downloads: int | None = None
    #: 0: no limit.
    max_bytes_per_second: int | None = None
    #: 0 takes a queue's number away; queues that are not named keep theirs.
    queues: Mapping[str, int] = field(default_factory=dict)
    #: Whether all that was set before is forgotten first.
    reset: bool = False
    max_connections_per_file: int | None = None
    max_connections_per_host: int | None = None
    max_connections: int | None = None

    def of(self, limits: Limits) -> Limits:
        """The limits afterwards.

        Raises:
            FieldInvalidException: Too many queues would have a number of their own.
        """
        before = Limits() if self.reset else limits
        queues = {queue: most for queue, most in {**before.queues, **self.queues}.items() if most}
        if len(queues) > MAX_QUEUES:
            text = f"at most {MAX_QUEUES} queues may have a number of their own; 0 takes one away"
            raise FieldInvalidException("", violations=[FieldViolation("queues", text)])
        named = {name: getattr(self, name) for name in _NUMBERS if getattr(self, name) is not None}
        numbers = {name: most if name == _OR_NONE else most or None for name, most in named.items()}
        return replace(before, queues=queues, **numbers)
