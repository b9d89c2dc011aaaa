"""Drains an Envoy before it is stopped: ``python -P -m modelkeep.gateway.drain SOCKET …``.

By itself Envoy cuts everything at SIGTERM. Here it is asked, at the socket of its administration, to give
each connection up with the answer that comes next on it, so that callers open others while it still takes
them; after the delay it takes no more, and what goes on has until the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import sys
import time
from pathlib import Path
from typing import Final

#: Seconds that Envoy may take to answer about itself.
_PATIENCE_S: Final = 5.0
_LOOK_S: Final = 0.2
#: Looks in a row that have to find nothing under way: between two calls of one caller there is nothing.
_QUIET_LOOKS: Final = 5
_HEADERS: Final = b"host: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
#: Counts calls and streams that have not ended; the name is that of the listener's ``stat_prefix``.
_UNDER_WAY: Final = "http.modelkeep.downstream_rq_active"


def drain(admin: Path, delay_s: float, limit_s: float) -> bool:
    """Drain an Envoy; it runs on, and does nothing any more.

    Args:
        admin: The UNIX socket of its administration.
        delay_s: Seconds in which it goes on to take connections: as long as callers are still led to it.
        limit_s: Seconds after that for what is under way.

    Returns:
        Whether nothing is under way any more. Watches go on for as long as they may.

    Raises:
        OSError: It does not answer.
    """
    _tell(admin, "/healthcheck/fail")
    time.sleep(delay_s)
    _tell(admin, "/drain_listeners")
    deadline = time.monotonic() + limit_s
    quiet = 0
    while quiet < _QUIET_LOOKS:
        if time.monotonic() > deadline:
            return not _goes_on(admin)
        time.sleep(_LOOK_S)
        quiet = 0 if _goes_on(admin) else quiet + 1
    return True


def _goes_on(admin: Path) -> bool:
    """Whether a call or a stream is under way."""
    try:
        said = _ask(admin, "GET", f"/stats?filter=^{re.escape(_UNDER_WAY)}$")
    except TimeoutError:
        return True  # it has too much to do to say so
    # In chunks, with their sizes around.
    counted = re.search(rf"{re.escape(_UNDER_WAY)}: (\d+)", said)
    if counted is None:
        raise OSError(f"Envoy does not tell {_UNDER_WAY}")
    return int(counted[1]) > 0


def _tell(admin: Path, path: str) -> None:
    """Ask for something; who has too much to do to answer at once does it later."""
    with contextlib.suppress(TimeoutError):
        _ask(admin, "POST", path)


def _ask(admin: Path, method: str, path: str) -> str:
    """What Envoy's administration answers.

    Raises:
        OSError: It does not, or refuses.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE_S)
        connection.connect(str(admin))
        connection.sendall(f"{method} {path} HTTP/1.1\r\n".encode() + _HEADERS)
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    if head.split()[1:2] != [b"200"]:
        raise OSError(f"Envoy refuses {method} {path}: {head[:100]!r}")
    return body.decode()


def main(arguments: list[str] | None = None) -> int:
    """Drain it; returns the exit code."""
    reader = argparse.ArgumentParser(prog="python -P -m modelkeep.gateway.drain", description=__doc__)
    reader.add_argument("socket", type=Path, help="UNIX socket of Envoy's administration (--admin-socket)")
    reader.add_argument("--delay-s", type=float, required=True, help="take connections for as long")
    reader.add_argument("--limit-s", type=float, required=True, help="time for what is under way")
    said = reader.parse_args(arguments)
    try:
        ended = drain(said.socket, said.delay_s, said.limit_s)
    except OSError as error:
        print(f"modelkeep gateway: cannot drain: {error}", file=sys.stderr)
        return 1
    print(f"modelkeep gateway: {'drained' if ended else 'drained, with streams that go on'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
