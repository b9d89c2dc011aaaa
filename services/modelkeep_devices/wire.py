"""How the loader and its processes for accelerators talk: :mod:`modelkeep.frames` of these.

A request is ``{"do": NAME, …}`` with descriptors beside it. Answers: ``{"progress": bytes}`` any number of
times, then ``{"done": {…}}``, with descriptors where there are some, or ``{"failed": KIND, "message": TEXT}``
with a key of `FAILURES`. One request at a time.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from modelkeep import frames
from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError, DeviceOutOfMemoryError

_PROGRESS_INTERVAL_S: Final = 0.05


class SourceError(Exception):
    """What was to be copied to a device cannot be read: the device has no part in it."""


FAILURES: Final[dict[str, type[Exception]]] = {
    "out_of_memory": DeviceOutOfMemoryError,
    "gone": DeviceGoneError,
    "failed": DeviceFailedError,
    "source": SourceError,
}

#: Does what a request asks for: the request, its descriptors, and whom to tell of bytes that are done.
#: Returns what the answer says, and descriptors that go with it and are closed here then.
Answer = Callable[[dict[str, Any], list[int], Callable[[int], None]], tuple[dict[str, Any], list[int]]]


def serve(link: socket.socket, answer: Answer) -> None:
    """Answer requests until the loader closes its end.

    Ends, too, after a failure of no known kind: what is wrong with this process may stay so, and the loader
    starts another one when it needs it.
    """
    while (frame := frames.receive_frame(link)) is not None:
        if not _answer(link, answer, *frame):
            return


def _answer(link: socket.socket, answer: Answer, request: dict[str, Any], descriptors: list[int]) -> bool:
    """Whether this process can go on."""
    made: list[int] = []
    told = time.monotonic()

    def progress(done: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= _PROGRESS_INTERVAL_S:
            told = now
            frames.send_frame(link, {"progress": done})

    try:
        try:
            facts, made = answer(request, descriptors, progress)
        finally:
            _close_all(descriptors)  # before the answer: whoever hears it finds them closed
    except Exception as error:
        kind = next((kind for kind, cls in FAILURES.items() if isinstance(error, cls)), "failed")
        message = str(error) if type(error) in FAILURES.values() else f"{type(error).__name__}: {error}"
        frames.send_frame(link, {"failed": kind, "message": message[:1000]})
        return kind != "failed"
    try:
        frames.send_frame(link, {"done": facts}, made)
    finally:
        _close_all(made)
    return True


def failure(answer: dict[str, Any]) -> Exception:
    """What an answer says that failed, as the loader raises it."""
    return FAILURES.get(answer["failed"], DeviceFailedError)(answer["message"])


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
