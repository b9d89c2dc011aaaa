"""The supervisor behind ``modelkeep up``: four services as four processes, started and drained together.

* :func:`up` runs a suite in the foreground until a signal or a death ends it: ``modelkeep up``.
* :class:`Suite` is the same suite as a context manager, for the demo and for tests.

The services are processes only: nothing here imports one. A service that dies is never restarted silently.
"""

from __future__ import annotations

from modelkeep.defaults import DEFAULT_PORTS, SERVICES
from modelkeep.suitefile import SuiteFile, read_suite_file
from modelkeep.supervisor._errors import SuiteError
from modelkeep.supervisor._suite import Suite, ports_from
from modelkeep.supervisor._up import up

__all__ = [
    "DEFAULT_PORTS",
    "SERVICES",
    "Suite",
    "SuiteError",
    "SuiteFile",
    "ports_from",
    "read_suite_file",
    "up",
]
