"""The command line program ``modelkeep``."""

# Nothing heavy may be imported here: until `start` runs, Ctrl-C shows whoever pressed it a traceback.
from modelkeep.cli._interrupts import begin


def start() -> None:
    """Run the command line. Until a command does its work, and after, Ctrl-C ends it without a word."""
    begin()
    from modelkeep.cli.main import main

    main()
