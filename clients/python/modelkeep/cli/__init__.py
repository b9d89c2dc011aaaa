"""The command line program ``modelkeep``."""

import os

# Nothing heavy may be imported here: until `start` runs, Ctrl-C shows whoever pressed it a traceback.
from modelkeep.cli._interrupts import begin


def start() -> None:
    """Run the command line. Until a command does its work, and after, Ctrl-C ends it without a word."""
    begin()
    # What goes wrong with TLS is told by the command; gRPC would write about it first, in its own way.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from modelkeep.cli.main import main

    main()
