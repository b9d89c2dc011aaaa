"""Why a service could not start, with the exit code that its supervisor sees; see modelkeep.defaults."""

from __future__ import annotations

import contextlib
import sys


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
