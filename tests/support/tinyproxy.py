"""tinyproxy as a process of its own on loopback: a real forward proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.nginx import wait_for
from support.ports import free_port


@dataclass(frozen=True, slots=True)
class Tinyproxy:
    """A running tinyproxy."""

    port: int
    log: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """The request lines that it has logged so far."""
        lines = self.log.read_text().splitlines()
        return [line.split("): ", 1)[1] for line in lines if "Request (file descriptor" in line]

    def wait_asked(self, count: int) -> list[str]:
        """The same once there are so many: it logs when it comes to it."""
        until = time.monotonic() + 10
        while len(asked := self.asked()) < count and time.monotonic() < until:
            time.sleep(0.02)
        return asked


@contextmanager
def tinyproxy(folder: Path, *lines: str, port: int = 0) -> Iterator[Tinyproxy]:
    """Run it with more lines of configuration; `folder` keeps its files.

    Raises:
        FileNotFoundError: tinyproxy is not installed.
    """
    program = shutil.which("tinyproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        text = "tinyproxy is missing: apt-get install tinyproxy (scripts/tools.sh does it as root)"
        raise FileNotFoundError(text)
    served = Tinyproxy(port or free_port(), folder / "tinyproxy.log")
    config = folder / "tinyproxy.conf"
    config.write_text(
        "\n".join(
            (
                f"Port {served.port}",
                "Listen 127.0.0.1",
                "Timeout 60",
                f'LogFile "{served.log}"',
                "LogLevel Connect",
                "MaxClients 50",
                *lines,
                "",
            )
        )
    )
    served.log.touch()
    process = subprocess.Popen([program, "-d", "-c", str(config)], stdout=subprocess.DEVNULL)
    try:
        wait_for(served.port, process, "tinyproxy")
        yield served
    finally:
        process.terminate()
        process.wait(20)
