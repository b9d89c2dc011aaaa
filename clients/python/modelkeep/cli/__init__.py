"""The command line program ``modelkeep``."""

from __future__ import annotations

import os
import signal
from typing import Any


def start() -> None:
    """Run the command line; Ctrl-C ends it without a word even while it is being imported."""

    def leave(*_: Any) -> None:
        os._exit(130)

    signal.signal(signal.SIGINT, leave)
    from modelkeep.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
