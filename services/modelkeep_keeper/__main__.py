"""`python -m modelkeep_keeper`: hold a loader's descriptors until the next loader has come.

A loader starts one by itself. By hand it is for where a loader's end takes its other processes with it, as in
a container of its own: started elsewhere, with the loader's `keeper_socket` at the same path.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import modelkeep.safe_path  # noqa: F401  before all others
from modelkeep.defaults import EXIT_ADDRESS_TAKEN, EXIT_NOT_WRITABLE
from modelkeep.locks import LockedError
from modelkeep_keeper.place import Place
from modelkeep_keeper.server import KeeperServer
from modelkeep_keeper.shelf import Shelf, raise_descriptor_limit


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; returns the exit code."""
    options = _options(argv)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    limit = raise_descriptor_limit()
    try:
        place = _place(options)
    except LockedError as error:
        say(f"another keeper{f' (process {error.holder})' if error.holder else ''} has {options.socket}")
        return EXIT_ADDRESS_TAKEN
    except OSError as error:
        say(f"cannot listen on {options.socket}: {error.strerror or error}")
        return EXIT_NOT_WRITABLE
    server = KeeperServer(place.listener, Shelf(limit), linger_s=options.linger, stays=options.stay, say=say)
    say(f"listens on {place.path}, with room for {limit} descriptors")
    try:
        server.serve()
    finally:
        place.leave()
    return 0


def say(text: str) -> None:
    """One line into the log; a full disk keeps nobody's memory."""
    with contextlib.suppress(OSError):
        # At once and whole, also out of a signal's handler.
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} keeper {os.getpid()}: {text}\n"
        os.write(2, line.encode())


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="modelkeep-keeper", description="Holds a loader's memory until the next loader has come."
    )
    parser.add_argument(
        "--socket",
        type=_absolute,
        required=True,
        help="Where it listens; in a folder that is its user's alone.",
    )
    parser.add_argument(
        "--linger",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="How long it waits for the next loader before it gives everything back and ends (60).",
    )
    parser.add_argument(
        "--stay", action="store_true", help="Go on afterwards, without what it kept, and wait for a loader."
    )
    parser.add_argument("--inherited", type=int, nargs=2, metavar="FD", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0, not {text}")
    return seconds


def _place(options: argparse.Namespace) -> Place:
    if options.inherited is not None:
        return Place.inherited(options.socket, *options.inherited)
    return Place.take(options.socket)


def _end(number: int, frame: FrameType | None) -> None:
    say(f"{signal.Signals(number).name}: everything is given back")
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
