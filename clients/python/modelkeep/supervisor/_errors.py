"""The one error of this package."""

from __future__ import annotations

#: Exit codes that a service's start may end with and that the supervisor passes through
#: (sysexits.h, and 98 for EADDRINUSE). Anything else becomes 1.
NEWER_SCHEMA, NOT_WRITABLE, BAD_CONFIGURATION, ADDRESS_TAKEN = 65, 73, 78, 98
PASSED_THROUGH = frozenset({NEWER_SCHEMA, NOT_WRITABLE, BAD_CONFIGURATION, ADDRESS_TAKEN})


class SuiteError(Exception):
    """The suite cannot start, or cannot go on.

    Args:
        message: What is wrong and what to do about it, for a person.
        exit_code: What a command line program should exit with.
        service: The service that is the cause, or None.
    """

    def __init__(self, message: str, *, exit_code: int = 1, service: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.service = service
