"""Processes that are there at once: forked from one that has imported the four services and the client.

A process of its own, killed by its own signal, with the settings, the command line and the exit code of one
that is started the usual way; only the second of CPU that Python needs to import it is spent once. It has no
command line and no environment of its own in /proc. For tests of other things than the start.

    python -m support.forked N      (takes orders on the socket that descriptor N is)
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import itertools
import os
import runpy
import secrets
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from modelkeep import processes
from modelkeep.defaults import SERVICES
from modelkeep.frames import receive_frame, send_frame

_ROOT = Path(__file__).resolve().parents[2]
#: Descriptors are kept from here on until those that they shall become are free.
_HIGH = 500
#: Modules, and what each process draws there by lot as it imports them: none has that of another.
DRAWN = (("modelkeep_common.calls.request_id", "_PREFIX"), ("modelkeep_common.urls", "_MARK_KEY"))


class Forked:
    """A forked process; looks like a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, stem: Stem, pid: int) -> None:
        self.pid, self.returncode = pid, None  # type: tuple[int, int | None]
        self._stem, self._pidfd, self._lock = stem, os.pidfd_open(pid), threading.Lock()

    def poll(self) -> int | None:
        """The exit code, minus a signal's number, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout` seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        with self._lock:
            if self.returncode is None:
                signal.pidfd_send_signal(self._pidfd, number)  # it has not been waited for: it is there

    def kill(self) -> None:
        """Send SIGKILL; returns at once."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                return None
        with self._lock:
            if self.returncode is None:
                self.returncode = self._stem.reap(self.pid)
                os.close(self._pidfd)
        return self.returncode


class Stem:
    """The process that services are forked from; it ends with this one, and they with it."""

    def __init__(self) -> None:
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._socket, theirs = socket.socketpair()
        paths = (str(_ROOT / part) for part in ("services", "clients/python", "tests"))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.forked", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def start(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
        terminal: int | None = None,
        folder: str | None = None,
        keep_open: Sequence[int] = (),
        boot: Path | None = None,
    ) -> Forked:
        """Start a module as a process in a session of its own, with nothing on its stdin.

        Args:
            module: As after ``python -m``.
            arguments: Its command line.
            environment: All of its environment.
            stdout, stderr: Where those go: an open file, or a descriptor.
            terminal: Descriptor of the terminal that is its stdin, and from which it gets ^C.
            folder: Its current folder; by default this process's.
            keep_open: Descriptors that it inherits, under the same numbers.
            boot: A file that it sees in place of the kernel's id of this start of the machine.
        """
        order = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "folder": folder or os.getcwd(),
            "keep_open": list(keep_open),
            "boot": "" if boot is None else str(boot),
            "at_terminal": terminal is not None,
        }
        outputs = [output if isinstance(output, int) else output.fileno() for output in (stdout, stderr)]
        with open(os.devnull, "rb") as nothing:
            stdin = nothing.fileno() if terminal is None else terminal
            return Forked(self, self._ask({"start": order}, [stdin, *outputs, *keep_open]))

    def reap(self, pid: int) -> int:
        """The exit code of one that has ended."""
        return self._ask({"reap": pid}, [])

    def end(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()

    def _ask(self, order: dict[str, Any], descriptors: Sequence[int]) -> int:
        with self._lock:
            number = next(self._numbers)
            send_frame(self._socket, {**order, "number": number}, descriptors)
            # The answer to what a test asked whose time was over is nobody's.
            while (answer := receive_frame(self._socket)) is not None and answer[0]["number"] != number:
                pass
        assert answer is not None, "the process that services are forked from has died"
        return int(answer[0]["answer"])


@functools.cache
def stem() -> Stem:
    """The one of this process, started at the first call."""
    made = Stem()
    atexit.register(made.end)
    return made


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str | None],
    stdout: IO[bytes],
    stderr: IO[bytes],
    keep_open: Sequence[int] = (),
) -> processes.Process:
    """Stands in for `modelkeep.processes.start` where a suite starts its services."""
    variables = {**processes.inherited_environment(), **environment}
    started: Any = stem().start(
        module,
        *arguments,
        environment={name: value for name, value in variables.items() if value is not None},
        stdout=stdout,
        stderr=stderr,
        folder="/",
        keep_open=keep_open,
    )
    return processes.Process(started)


def main() -> None:
    """Fork as ordered until the other end is closed; in a child, be what was ordered."""
    # Not the command line itself: that looks at the environment and at its terminal while it is imported.
    for module in (*(f"modelkeep_{service}.app" for service in SERVICES), "modelkeep.client"):
        import_module(module)
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()  # a child that collects would copy every page
    orders = socket.socket(fileno=int(sys.argv[1]))
    while (frame := receive_frame(orders)) is not None:
        order, descriptors = frame
        if "reap" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
        elif not (answer := os.fork()):
            orders.close()
            _become(descriptors=descriptors, **order["start"])
            return
        for descriptor in descriptors:
            os.close(descriptor)
        send_frame(orders, {"answer": answer, "number": order["number"]})


def _become(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    keep_open: list[int],
    boot: str,
    at_terminal: bool,
    descriptors: list[int],
) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    os.setsid()
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH) for descriptor in descriptors]
    os.closerange(3, _HIGH)
    for source, number in zip(kept, (0, 1, 2, *keep_open), strict=True):
        os.dup2(source, number)
    os.closerange(_HIGH, _HIGH + len(kept))
    if at_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    _open_streams()
    if "PYTHONUNBUFFERED" in environment:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    if boot:
        _see_boot_id(boot)
    for place, name in DRAWN:
        _draw_again(place, name)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _open_streams() -> None:
    """Python's own are of the files that the descriptors were when it started."""
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False, errors=sys.stdin.errors)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False, errors=sys.stdout.errors)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, closefd=False, errors=sys.stderr.errors)  # type: ignore[misc]


def _draw_again(place: str, name: str) -> None:
    module = import_module(place)
    drawn: str | bytes = getattr(module, name)
    text = isinstance(drawn, str)
    setattr(module, name, secrets.token_hex(len(drawn) // 2) if text else secrets.token_bytes(len(drawn)))


def _see_boot_id(file: str) -> None:
    """Have this process alone see a file in place of the kernel's, as if the machine had started anew."""
    system = ctypes.CDLL(None, use_errno=True)
    apart, private, bind = 0x20000, 0x44000, 0x1000
    done = (
        system.unshare(apart),
        system.mount(None, b"/", None, private, None),
        system.mount(os.fsencode(file), b"/proc/sys/kernel/random/boot_id", None, bind, None),
    )
    assert done == (0, 0, 0), os.strerror(ctypes.get_errno())


if __name__ == "__main__":
    main()
