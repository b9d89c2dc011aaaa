"""How many connections a service takes: so few that descriptors are left for its files, whoever connects."""

from __future__ import annotations

import resource

#: TCP and the UNIX socket, each with a bound of its own: a crowd at one leaves the other open.
_LISTENERS = 2
#: Descriptors kept for databases, models, logs and connections to others.
_FOR_FILES = 512
_AT_LEAST = 16


def connection_limit(wanted: int) -> int:
    """Connections that each listener may have at once, at most ``wanted``.

    Raises this process's own limit of open files as far as it takes and the system lets it, and gives fewer
    than ``wanted`` where it does not.
    """
    needed = _LISTENERS * wanted + _FOR_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(_AT_LEAST, (soft - _FOR_FILES) // _LISTENERS))
