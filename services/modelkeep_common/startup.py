"""Why a service could not start, as the exit code its supervisor sees."""

from __future__ import annotations

import contextlib
import sys

#: A database of a newer schema, or a file that is not this service's database (EX_DATAERR).
EXIT_DATA = 65
#: The drain hung and the watchdog ended the process (EX_SOFTWARE).
EXIT_HUNG = 70
#: The data folder cannot be written, or another suite has it (EX_CANTCREAT).
EXIT_NOT_WRITABLE = 73
#: A bad setting (EX_CONFIG).
EXIT_CONFIG = 78
#: The address is taken (EADDRINUSE).
EXIT_ADDRESS_TAKEN = 98


class StartupError(Exception):
    """The service cannot start; ``message`` tells an operator what to do about it."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message


def tell(service: str, what: str) -> None:
    """Say something on standard error; what that leads to may be full or gone."""
    with contextlib.suppress(OSError, ValueError):
        print(f"modelkeep {service}: {what}", file=sys.stderr, flush=True)
