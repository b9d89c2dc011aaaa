"""Nothing is destroyed unasked: what would happen is said, and on a terminal a person is asked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from modelkeep.cli import _terminal
from modelkeep.cli._terminal import visible

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


def can_ask() -> bool:
    """Whether somebody is there who could answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def agreed(question: str, plan: Sequence[str], *, yes: bool) -> None:
    """Ask, unless `yes` is said or nobody is there to answer.

    Args:
        question: What is about to happen, as a question.
        plan: What it comes to, line by line.
        yes: It has been agreed to.

    Raises:
        typer.Exit: The answer is no; exit code 1.
    """
    if yes or not can_ask():
        return
    # What stdin is the terminal of shows the question, wherever the errors go.
    with contextlib.ExitStack() as opened:
        asked = sys.stderr
        if not asked.isatty():
            asked = opened.enter_context(open(os.ttyname(sys.stdin.fileno()), "w", encoding="utf-8"))
        print(*map(visible, plan), f"{visible(question)} [y/N] ", sep="\n", end="", file=asked, flush=True)
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        _terminal.complain("Nothing was changed.")
        raise typer.Exit(1)
