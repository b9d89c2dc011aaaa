"""A process of the loader's own at the other end of a socket pair."""

from __future__ import annotations

import logging
import signal
import socket
from typing import Final

from modelkeep import processes

_log = logging.getLogger(__name__)

#: Seconds that what was ended is waited for.
LET_GO_S: Final = 5.0


class Linked:
    """Starts the process when it is needed, and again when it has died.

    Its methods block: they are called from threads.

    Args:
        module, arguments: As :func:`modelkeep.processes.start` takes them; ``--fd N`` is added, the socket's
            other end. The process ends with this one.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = (module, *arguments)
        self._process: processes.Process | None = None
        self._link: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 if none is running."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    def start(self) -> socket.socket:
        """This side of the socket pair, to the process that runs or to one that is started now.

        Raises:
            OSError: The system refuses.
        """
        if self._link is not None and self.pid:
            return self._link
        self.stop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = processes.start(
                    *self._command,
                    *("--fd", str(theirs.fileno())),
                    keep_open=[theirs.fileno()],
                    # What it has under way is of no use to anybody any more.
                    death_signal=signal.SIGKILL,
                )
            except BaseException:
                ours.close()
                raise
        self._link = ours
        return ours

    def kill(self) -> None:
        """End the process at once, so that whoever waits for its answer hears of it."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> int:
        """End it and wait a little; returns its exit code, minus a signal's number, or 0 if none ran."""
        process, link = self._process, self._link
        self._process = self._link = None
        if link is not None:
            link.close()
        if process is None:
            return 0
        # It ends by itself when its socket closes; what is under way is not worth waiting for.
        process.kill()
        if (code := process.wait(LET_GO_S)) is None:
            _log.warning("the process %d hangs in the system and does not end", process.pid)
            return -signal.SIGKILL
        return code
