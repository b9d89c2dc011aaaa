"""The one place that starts processes: :func:`start`.

Whatever is started here runs the installed code and nothing that happens to lie around: no module from the
folder where a command was typed (``-P``, and ``/`` as the current folder), none from a ``PYTHON…`` variable,
and it has no descriptors but those that are named. Unless it shall outlive its parent it also ends with it,
even when the parent is killed.

Everything else of this project starts processes through here; a lint refuses ``subprocess``,
``multiprocessing``, ``os.fork`` and their like elsewhere.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

PIPE: Final = subprocess.PIPE
DEVNULL: Final = subprocess.DEVNULL

#: Nobody but the system's administrator puts files there.
_FOLDER = "/"
#: Variables of Python that change how it runs, but not what: neither code nor a place to look for it.
_HARMLESS = frozenset(
    {
        *("PYTHONDONTWRITEBYTECODE", "PYTHONFAULTHANDLER", "PYTHONHASHSEED", "PYTHONIOENCODING"),
        *("PYTHONMALLOC", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED", "PYTHONUTF8"),
    }
)

# The child asks the kernel for a signal when its parent dies (prctl PR_SET_PDEATHSIG = 1), looks whether
# that has happened before it could ask, and then becomes what it shall be; the wish survives the exec.
# Elsewhere than on Linux there is no such thing, and the process starts without it.
_BECOME = """\
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
    if os.getppid() != int(sys.argv[1]):
        sys.exit(0)
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


class Process:
    """A process that :func:`start` started.

    Attributes:
        pid: Its process id.
        stdin, stdout: This side of its pipes, unbuffered; None where it has none.
    """

    def __init__(self, started: subprocess.Popen[bytes]) -> None:
        self._started = started
        self.pid = started.pid
        self.stdin: IO[bytes] | None = started.stdin
        self.stdout: IO[bytes] | None = started.stdout

    @property
    def returncode(self) -> int | None:
        """The exit code, minus a signal's number, or None while it runs."""
        return self._started.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; returns the exit code, or None when it still runs after `timeout_s` seconds."""
        try:
            return self._started.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self._started.send_signal(signum)

    def kill(self) -> None:
        """Send SIGKILL; returns at once."""
        self._started.kill()

    def end(self) -> int:
        """Kill it if it still runs, wait, and return the exit code."""
        self._started.kill()
        return self._started.wait()


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str | None] | None = None,
    stdin: int = DEVNULL,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    keep_open: Sequence[int] = (),
    outlives_parent: bool = False,
    death_signal: signal.Signals = signal.SIGTERM,
) -> Process:
    """Start a module of the installed packages as a process in a session of its own.

    Args:
        module: As after ``python -m``.
        arguments: Its command line. Paths must be absolute: the current folder is ``/``.
        environment: Variables on top of :func:`inherited_environment`; None as a value takes one away.
        stdin, stdout, stderr: :data:`PIPE`, :data:`DEVNULL`, an open file, or None for this process's own.
        keep_open: Descriptors that it inherits, under the same numbers.
        outlives_parent: It goes on when this process ends.
        death_signal: What it gets when this process ends, if it does not outlive it.

    May be called from any thread, whether or not that thread lasts.

    Raises:
        OSError: The system refuses.
    """
    variables: dict[str, str | None] = {**inherited_environment(), **(environment or {})}
    command = ["-P", "-m", module, *arguments]
    if not outlives_parent:
        command = ["-I", "-S", "-c", _BECOME, str(os.getpid()), str(int(death_signal)), *command]

    def begin() -> Process:
        return Process(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=_FOLDER,
                env={name: value for name, value in variables.items() if value is not None},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                bufsize=0,  # nothing may hide from select()
                close_fds=True,
                pass_fds=tuple(keep_open),
                # Ctrl-C in a terminal reaches the whole foreground group; it is the parent's to handle.
                start_new_session=True,
            )
        )

    if not outlives_parent:
        return _Starter.run(begin)
    process = begin()
    _outliving[:] = [other for other in _outliving if other.returncode is None] + [process]
    return process


#: Those that shall outlive this process, and do not end with the last reference to them: subprocess warns of
#: such. One that has ended is looked after when the next one starts.
_outliving: list[Process] = []


def inherited_environment() -> dict[str, str]:
    """This process's environment without what would bring other code into a child.

    Every ``PYTHON…`` variable that names code, or a place where code is looked for, is left out;
    installed packages are found without them.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") or name in _HARMLESS
    }


class _Starter:
    """The thread that starts the processes which end with this one.

    The kernel ties the death signal to the thread that forked: from a pool's thread, the child would be
    ended together with that thread. This one lasts as long as the process.
    """

    _lock = threading.Lock()
    _orders: queue.SimpleQueue[Callable[[], None]] | None = None

    @classmethod
    def run(cls, begin: Callable[[], Process]) -> Process:
        """Call `begin` on the thread; returns what it returns, raises what it raises."""
        done: queue.SimpleQueue[tuple[Process | None, BaseException | None]] = queue.SimpleQueue()

        def order() -> None:
            try:
                done.put((begin(), None))
            except BaseException as error:
                done.put((None, error))

        with cls._lock:
            if cls._orders is None:
                cls._orders = queue.SimpleQueue()
                threading.Thread(
                    target=cls._serve, args=(cls._orders,), daemon=True, name="process-starter"
                ).start()
            cls._orders.put(order)
        process, error = done.get()
        if process is None:
            assert error is not None
            raise error
        return process

    @staticmethod
    def _serve(orders: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            orders.get()()

    @classmethod
    def forget(cls) -> None:
        """The thread is the parent's: a forked child needs one of its own."""
        cls._lock = threading.Lock()
        cls._orders = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Starter.forget)
