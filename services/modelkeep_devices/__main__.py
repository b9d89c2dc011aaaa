"""One process for accelerators, started by the loader; it ends when the loader does.

``python -m modelkeep_devices owner --fd N --accelerators SPEC`` makes memory on them;
``python -m modelkeep_devices copier --fd N --accelerators SPEC --device NAME`` fills it. Both are asked over
the socket that N is; they open no path and no connection.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
from functools import cache

from modelkeep.devices.drivers import open_driver
from modelkeep_devices import wire
from modelkeep_devices.copier import Copier
from modelkeep_devices.owner import Owner


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["owner", "copier"])
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the socket to the loader")
    parser.add_argument("--accelerators", required=True, help="which ones: cuda, or simulated ones")
    parser.add_argument("--device", default="", help="the copier's device")
    arguments = parser.parse_args(argv)

    @cache  # what it raises is not kept: a driver that cannot be opened is an answer, each time
    def worker() -> wire.Answer:
        driver = open_driver(arguments.accelerators)
        return Owner(driver) if arguments.role == "owner" else Copier(driver, arguments.device)

    with (
        socket.socket(fileno=arguments.fd) as link,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),  # the loader is gone
    ):
        wire.serve(link, lambda request, descriptors, progress: worker()(request, descriptors, progress))


if __name__ == "__main__":
    main()
