"""Which failures may pass, and how often they are worth another try. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from modelkeep.exceptions import (
    AddressExpiredException,
    EarlyAccessException,
    LicenseNotAcceptedException,
    ModelkeepError,
    NotAModelFileException,
    PurchaseRequiredException,
    SourceNotFoundException,
    TokenRejectedException,
    TokenRequiredException,
)

#: Statuses below 500 after which the same request may succeed; from 500 on all but 501 and 505 may.
TRANSIENT_STATUSES = frozenset(
    {408, 421, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529}
)
_OF_ONE_NODE = (SourceNotFoundException, NotAModelFileException)
_OF_SOMEBODY = (
    *(AddressExpiredException, TokenRequiredException, TokenRejectedException),
    *(LicenseNotAcceptedException, PurchaseRequiredException, EarlyAccessException),
)
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


def is_transient(status: int) -> bool:
    """Whether the same request may be answered otherwise a while later."""
    return status in TRANSIENT_STATUSES or (status >= 500 and status not in (501, 505))


def may_be_one_nodes(error: ModelkeepError) -> bool:
    """Whether a source that has served bytes may take this back: one of its nodes may lack the object."""
    return isinstance(error, _OF_ONE_NODE)


def waits_for_somebody(error: ModelkeepError) -> bool:
    """Whether a source that has served bytes refuses more for what somebody can bring."""
    return isinstance(error, _OF_SOMEBODY)


class TransientError(Exception):
    """The source failed in a way that may pass: try again.

    Attributes:
        retry_after: Seconds that the source asks to wait, or None.
        tries: How many tries that is worth as long as the source has never answered; None: as many as any.
        metadata: Facts for the error that people see.
        final: What the job ends with when no try is left; None: UPSTREAM_UNAVAILABLE.
        status: The HTTP status that said so; None if nothing was answered.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        *,
        tries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        final: ModelkeepError | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.tries = tries
        self.metadata = dict(metadata or {})
        self.final = final
        self.status = status


class StartOver(Exception):
    """What has been fetched cannot be gone on with: fetch from the first byte.

    Attributes:
        changed: The source has another object than before (as opposed to one that it cannot resume).
    """

    def __init__(self, message: str, *, changed: bool) -> None:
        super().__init__(message)
        self.message = message
        self.changed = changed
