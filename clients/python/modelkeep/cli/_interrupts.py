"""What Ctrl-C does: it ends the program, or interrupts the command that is at work."""

# `signal` itself, and most of the library, would be imported before Ctrl-C is looked after.
import _signal as signals  # type: ignore[import-not-found]
import os

#: Whether this process is the program, and not one that calls its commands.
_is_program = False


def begin() -> None:
    """The program starts."""
    global _is_program
    # In the background of a shell it is ignored, and stays so.
    _is_program = signals.getsignal(signals.SIGINT) is not signals.SIG_IGN
    leave_at_once()


def leave_at_once() -> None:
    """Have Ctrl-C end the program."""
    if _is_program:
        signals.signal(signals.SIGINT, lambda *_: os._exit(130))


def let_interrupt() -> None:
    """Have Ctrl-C interrupt what the program does, as KeyboardInterrupt."""
    if _is_program:
        signals.signal(signals.SIGINT, signals.default_int_handler)
