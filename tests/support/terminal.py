"""A real pseudo-terminal of a chosen width, with a person at it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from support.forked import stem

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Session:
    """What a command did at a terminal.

    Attributes:
        code: Its exit code.
        raw: All that it wrote.
    """

    code: int
    raw: str

    @property
    def plain(self) -> str:
        """What it wrote, without looks and movements."""
        return _ESCAPES.sub("", self.raw).replace("\r", "\n")


def session(
    arguments: Sequence[str],
    *,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
    limit_s: float = 25.0,
) -> Session:
    """Run ``modelkeep`` at a terminal.

    Args:
        arguments: Its arguments.
        columns: How wide the terminal is.
        env: Variables on top of this process's.
        answers: What is typed once a text has been written: text to keys; "\\x03" is Ctrl-C.
        limit_s: After so many seconds the command is killed.
    """
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm", **(env or {})}
    for name in ("COLUMNS", "NO_COLOR"):
        if name not in (env or {}):
            environ.pop(name, None)
    process = stem().start(
        "modelkeep.cli", *arguments, environment=environ, stdout=slave, stderr=slave, terminal=slave
    )
    os.close(slave)
    said = b""
    waiting = dict(answers or {})
    deadline = time.monotonic() + limit_s
    try:
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.1)[0]:
                if process.poll() is not None:
                    break
                continue
            with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
                piece = os.read(master, 65536)
                said += piece
                for text in [text for text in waiting if text.encode() in said]:
                    os.write(master, waiting.pop(text).encode())
                continue
            break
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(master)
    return Session(process.wait(), said.decode("utf-8", "replace"))
