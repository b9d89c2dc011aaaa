"""The command line, ``modelkeep``. Commands import what they need when they run, so that help is quick."""

from __future__ import annotations

# `signal` itself imports half of the standard library, in which Ctrl-C would be a traceback.
import _signal  # type: ignore[import-not-found]
import os


def start() -> None:
    """Run the command line; Ctrl-C ends it without a word even while it is being imported."""
    _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
    from modelkeep.cli.main import main

    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    main()
