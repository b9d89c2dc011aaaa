"""Makes what a transfer writes durable now and then, on a thread of its own: nobody waits for the disk."""

from __future__ import annotations

import os
import threading
import time

from modelkeep_download.engine.pieces import Pieces
from modelkeep_download.engine.transfer import Durable, Tell

#: Bytes that a kill of the process may cost.
_TELL_BYTES = 8 << 20
#: So many are made durable in time also when no more of them come.
_WORTH_A_THREAD_BYTES = 1 << 20


class Syncer:
    """Brings a partial file to the disk, and tells what is there.

    Args:
        fd: The file.
        pieces: What is written.
        tell: Hears of `Durable`, from one thread at a time.
        every_bytes: Bytes after which that is due.
        every_s: Seconds after which it is.
    """

    def __init__(self, fd: int, pieces: Pieces, tell: Tell, every_bytes: int, every_s: float) -> None:
        self._fd, self._pieces, self._tell = fd, pieces, tell
        self._every_bytes, self._every_s = every_bytes, every_s
        self._durable, self._time = pieces.written, time.monotonic()
        self._telling = threading.Lock()
        self._due, self._closed = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._told = pieces.size
        self._failed = self._left = False

    def note(self, size: int) -> None:
        """So many bytes are written: let it be seen to, if it is due.

        Raises:
            OSError, ModelkeepError: What was written cannot be made durable.
        """
        if self._error is not None:
            raise self._error
        if size - self._told >= _TELL_BYTES:
            self._told = size
            self._landed()
        behind = size - self._durable.size
        due = behind >= self._every_bytes or time.monotonic() - self._time >= self._every_s
        if self._thread is None and (due or behind >= _WORTH_A_THREAD_BYTES):
            self._start()
        if due:
            self._due.set()

    def close(self) -> None:
        """End the thread; what is written last is left to whoever delivers the file."""
        self._closed = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def settle(self) -> None:
        """End the thread, with all that is written durable and told."""
        self.close()
        self._sync(self._fd)

    def leave(self) -> None:
        """Tell what is written, and wait for nothing: who stops a transfer need not wait for the disk.

        What is not durable yet outlives the process all the same, and is fetched again after a power cut.
        """
        with self._telling:
            self._closed = self._left = True
            if not self._failed:
                self._tell(Durable(self._pieces.written, synced=False))
        self._due.set()

    def _landed(self) -> None:
        """Tell what is written, durable or not: it outlives the process."""
        with self._telling:
            if not self._failed:
                self._tell(Durable(self._pieces.written, synced=False))

    def _start(self) -> None:
        with self._telling:
            if self._thread is None:
                # A descriptor of its own: it may outlast the transfer, see `leave`.
                work, fd = self._run, os.dup(self._fd)
                self._thread = threading.Thread(target=work, args=(fd,), name="modelkeep-sync", daemon=True)
                self._thread.start()

    def _run(self, fd: int) -> None:
        try:
            while not self._closed:
                self._due.wait(self._every_s)
                self._due.clear()
                if not self._closed:
                    self._sync(fd)
        except BaseException as error:
            self._error = error
        finally:
            os.close(fd)

    def _sync(self, fd: int) -> None:
        have = self._pieces.written
        self._time = time.monotonic()
        if self._failed or have.size == self._durable.size:
            return
        try:
            os.fdatasync(fd)
        except OSError:
            # Not repeated: the kernel has dropped the pages then, and says that all is well.
            with self._telling:
                self._failed = True
                if not self._left:
                    self._tell(Durable(self._durable, synced=False))
            raise
        with self._telling:
            if not self._left:
                self._tell(Durable(have))
        self._durable = have
