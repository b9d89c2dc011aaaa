"""The one error of this package."""

from __future__ import annotations

from modelkeep.defaults import EXIT_ADDRESS_TAKEN, EXIT_CONFIG, EXIT_DATA, EXIT_FAILED, EXIT_NOT_WRITABLE

#: Exit codes that a service's start may end with and that the supervisor passes through. Anything else
#: becomes 1.
PASSED_THROUGH = frozenset({EXIT_DATA, EXIT_NOT_WRITABLE, EXIT_CONFIG, EXIT_ADDRESS_TAKEN})


class SuiteError(Exception):
    """The suite cannot start, or cannot go on.

    Args:
        message: What is wrong and what to do about it, for a person.
        exit_code: What a command line program should exit with.
        service: The service that is the cause, or None.
    """

    def __init__(self, message: str, *, exit_code: int = EXIT_FAILED, service: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.service = service
