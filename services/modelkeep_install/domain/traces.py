"""Where a failure happened, for operators: files, lines and names of functions, and no value."""

from __future__ import annotations

import traceback
from pathlib import Path

#: Frames that are told of each exception; of more, the first and the last half.
_FRAMES = 40
#: Exceptions of one chain that are told.
_CHAIN = 5
_BETWEEN = "\n\nThe above exception was the direct cause of the following exception:\n\n"


def trace_of(error: BaseException, *, name: str = "") -> str:
    """The traceback of an exception and of its causes, in Python's order, without what any of them says.

    Messages, arguments and lines of source stay out, so that no secret can be in it.

    Args:
        error: The exception.
        name: What it is called in place of its own class.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain and len(chain) < _CHAIN:
        chain.append(cause)
        cause = cause.__cause__
    told = [_one(link, type(link).__name__) for link in reversed(chain[1:])]
    return _BETWEEN.join((*told, _one(error, name or type(error).__name__)))


def _one(error: BaseException, name: str) -> str:
    frames = [
        f"  {Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if len(frames) > _FRAMES:
        left_out = len(frames) - _FRAMES
        frames[_FRAMES // 2 : -_FRAMES // 2] = [f"  … {left_out} more"]
    return "\n".join(("Traceback (most recent call last):", *frames, name))
