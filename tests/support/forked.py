"""DownloadService as a process that is there at once: forked from one that has imported it all.

A process of its own, killed by its own signal, with the settings and the command line of one that is started
the usual way; only the second that Python needs to import it is spent once. For tests that start it often.

    python -m support.forked      (reads orders, one JSON value a line; answers with process ids)
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from support.downloads import REPOSITORY, DownloadProcess


class Stem:
    """The process that the services are forked from."""

    def __enter__(self) -> Stem:
        folders = ("services", "clients/python", "tests")
        path = os.pathsep.join(str(REPOSITORY / folder) for folder in folders)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.forked"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def fork(self, argv: list[str], env: dict[str, str], log: Path, boot: Path | None = None) -> int:
        """Start a service; returns its process id.

        Args:
            argv: Its arguments.
            env: What is set for it.
            log: Where its output goes.
            boot: A file that it sees in place of the kernel's id of this start of the machine.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"argv": argv, "env": env, "log": str(log), "boot": str(boot or "")}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class ForkedDownloads(DownloadProcess):
    """A `DownloadProcess` that is forked; its exit code is not known.

    Attributes:
        boot: See `Stem.fork`.
    """

    def __init__(self, stem: Stem, data_dir: Path, **settings: Any) -> None:
        super().__init__(data_dir, **settings)
        self.boot: Path | None = None
        self._stem, self._pidfd = stem, -1

    def start(self) -> None:
        """See `DownloadProcess.start`; the process is there when this returns, and may not answer yet."""
        argv, env = self.command()
        self._pidfd = os.pidfd_open(self._stem.fork(argv, env, self.log, self.boot))

    def signal(self, number: int) -> None:
        """Send it a signal, and do not wait for what that does."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _end(self, number: int) -> int:
        fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            try:
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    signal.pidfd_send_signal(fd, number)
                assert select.select([fd], [], [], 20)[0], "it does not end"
            finally:
                os.close(fd)
        return 0


def main() -> int:
    """Fork as ordered until the input ends."""
    from modelkeep_common.serving import run
    from modelkeep_common.settings import load_settings
    from modelkeep_download.app import DownloadApplication
    from modelkeep_download.config import DownloadSettings

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for standard in (1, 2):
            os.dup2(log, standard)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if order["boot"]:
            _see_boot_id(order["boot"])
        os.environ.update(order["env"])
        sys.argv[1:] = order["argv"]
        os._exit(run(DownloadApplication, load_settings(DownloadSettings)))
    return 0


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
    sys.exit(main())
