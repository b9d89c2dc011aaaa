"""What the log says of how long a listener's certificate lasts: nobody else would before callers do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..certificates import Lifetime

_log = logging.getLogger(__name__)

_DAY_S: Final = 86_400.0
#: The end is near in the last fifth of a certificate's time, and never longer before: whatever renews
#: certificates does so with a third left.
_LAST_PART: Final = 1 / 5
_LAST_S: Final = 14 * _DAY_S


class Expiry:
    """Says in the log what there is to say of a certificate's lifetime, again each day.

    Args:
        file: Where it is, for the text.
        now: The time, as ``time.time()`` counts.
    """

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._file, self._now = file, now
        self._of: Lifetime | None = None
        self._said, self._again = "", 0.0

    def look(self, lifetime: Lifetime) -> None:
        """Say it, if it was not said of this lifetime within a day."""
        if lifetime is not self._of:
            self._of, self._said = lifetime, ""
            _log.info("the certificate is good until %s", _date(lifetime.end), extra=self._fields())
        now = self._now()
        state = _state_of(lifetime, now)
        if state == self._said and now < self._again:
            return
        self._said, self._again = state, now + _DAY_S
        if state == "early":
            _log.warning(
                "the certificate is not good before %s: callers refuse it until then",
                _date(lifetime.begin),
                extra=self._fields(),
            )
        elif state == "late":
            _log.warning(
                "the certificate ends in %s: replace the file, which is read again without a restart",
                _span(lifetime.end - now),
                extra=self._fields(),
            )
        elif state == "ended":
            _log.error(
                "the certificate ended at %s, and callers refuse it: replace the file, which is read again "
                "without a restart",
                _date(lifetime.end),
                extra=self._fields(),
            )

    def _fields(self) -> dict[str, dict[str, str]]:
        return {"fields": {"tls_cert_file": str(self._file)}}


def _state_of(lifetime: Lifetime, now: float) -> str:
    if now >= lifetime.end:
        return "ended"
    if now < lifetime.begin:
        return "early"
    warned_s = min(_LAST_S, (lifetime.end - lifetime.begin) * _LAST_PART)
    return "late" if lifetime.end - now < warned_s else "good"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _span(seconds: float) -> str:
    for name, size in (("days", _DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{seconds:.0f} seconds"
