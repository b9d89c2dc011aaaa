"""How a transfer's threads are told to stop, at once, whatever they wait for."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref


class Stopped(Exception):
    """The transfer was told to stop; what is durable stays."""


class StopSignal:
    """Tells a thread to stop, at once: it shuts down the socket that the thread waits on.

    A transfer with several connections has one signal for each, its `branch`: stopping the transfer stops
    them all, stopping a branch leaves the others alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._socket: socket.socket | None = None
        self._branches: weakref.WeakSet[StopSignal] = weakref.WeakSet()

    @property
    def is_set(self) -> bool:
        """Whether stop() was called."""
        return self._event.is_set()

    def branch(self) -> StopSignal:
        """A signal that this one sets, too."""
        branch = StopSignal()
        with self._lock:
            self._branches.add(branch)
            if self._event.is_set():
                branch.stop()
        return branch

    def stop(self) -> None:
        """Make the thread raise Stopped as soon as it can. Any thread may call this, repeatedly."""
        with self._lock:
            self._event.set()
            self._shut()
            branches = list(self._branches)
        for branch in branches:
            branch.stop()

    def watch(self, sock: socket.socket | None) -> None:
        """Shut down this socket on stop(), in place of the one before."""
        with self._lock:
            self._socket = sock
            if self._event.is_set():
                self._shut()

    def forget(self, sock: socket.socket) -> None:
        """Leave this socket alone from now on."""
        with self._lock:
            if self._socket is sock:
                self._socket = None

    def abort(self) -> None:
        """Shut down the watched socket without a stop: its reader gets an error."""
        with self._lock:
            self._shut()

    def check(self) -> None:
        """Raise Stopped after stop()."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, or raise Stopped as soon as stop() is called."""
        if self._event.wait(seconds):
            raise Stopped

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not connected, or closed already
                # The plain socket's method: a TLS one would only drop its own state.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
