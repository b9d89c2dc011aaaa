"""What an HTTP status means for a job: try again, or give up, and why. Pure."""

from __future__ import annotations

from modelkeep.exceptions import (
    ModelkeepError,
    SourceNotFoundException,
    TokenRejectedException,
    TokenRequiredException,
)

#: Statuses below 500 after which the same request may succeed; from 500 on all but 501 and 505 may.
TRANSIENT_STATUSES = frozenset(
    {408, 421, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529}
)
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


class TransientError(Exception):
    """The source failed in a way that may pass: try again.

    Attributes:
        retry_after: Seconds that the source asks to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class StartOver(Exception):
    """What has been fetched cannot be gone on with: fetch from the first byte.

    Attributes:
        changed: The source has another object than before (as opposed to one that it cannot resume).
    """

    def __init__(self, message: str, *, changed: bool) -> None:
        super().__init__(message)
        self.message = message
        self.changed = changed


def status_error(
    status: int, *, host: str, at_source: bool, had_token: bool, retry_after: float | None
) -> Exception:
    """The exception for a status that is neither success nor a redirect.

    Args:
        status: The HTTP status.
        host: Host that answered, for the message.
        at_source: Whether it is the source's own host, the only one that saw the token.
        had_token: Whether a token was sent.
        retry_after: Seconds that the answer asks to wait, if any.
    """
    facts = {"host": host, "status": str(status)}
    if status in TRANSIENT_STATUSES or (status >= 500 and status not in (501, 505)):
        return TransientError(f"{host} answers {status}", retry_after)
    if not at_source and status in (400, 401, 403):
        # A storage host behind a redirect: its signed address has run out. Ask the source anew.
        return TransientError(f"{host} answers {status} to the address that the source gave")
    if status in (401, 403):
        return _access_error(status, facts, had_token=had_token)
    if status in (404, 410):
        return SourceNotFoundException(f"{host} answers {status}: there is no such file", metadata=facts)
    return SourceNotFoundException(f"{host} answers {status} and serves no file", metadata=facts)


def _access_error(status: int, facts: dict[str, str], *, had_token: bool) -> ModelkeepError:
    host = facts["host"]
    if had_token:
        facts["remedy"] = "check that the token is valid and may read the file; start with another one"
        return TokenRejectedException(
            f"{host} answers {status} to this access token; check that it is valid and may read the file",
            metadata=facts,
        )
    facts["remedy"] = "create the download with an access token of the source"
    return TokenRequiredException(
        f"{host} answers {status}; it wants an access token: create the download with one", metadata=facts
    )
