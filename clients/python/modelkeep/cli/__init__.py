"""The command line program ``modelkeep``."""

# Nothing heavier may be imported here: until `start` runs, Ctrl-C shows whoever pressed it a traceback.
import _signal as signals  # type: ignore[import-not-found]  # the part of `signal` that imports nothing
import os

#: Whether this process is the program, and not one that calls its commands.
_is_program = False


def start() -> None:
    """Run the command line. Until a command does its work, and after, Ctrl-C ends it without a word."""
    global _is_program
    # In the background of a shell it is ignored, and stays so.
    _is_program = signals.getsignal(signals.SIGINT) is not signals.SIG_IGN
    leave_at_once()
    from modelkeep.cli.main import main

    main()


def leave_at_once() -> None:
    """Have Ctrl-C end the program."""
    if _is_program:
        signals.signal(signals.SIGINT, lambda *_: os._exit(130))


def let_interrupt() -> None:
    """Have Ctrl-C interrupt what the program does, as KeyboardInterrupt."""
    if _is_program:
        signals.signal(signals.SIGINT, signals.default_int_handler)
