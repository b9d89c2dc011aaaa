"""A link with a latency, a rate for each connection, and resets: a TCP relay in a process of its own.

The rate belongs to the connection, whatever it asks for. nginx's own `limit_rate` counts anew with each
request and gives the first second for nothing, so that one who asks for pieces of 16 MiB would not meet it.
Bytes pass by splice(2), so that the relay takes little of the machine that it shares with what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: On close: no waiting, no goodbye, but a reset.
_RESET = struct.pack("ii", 1, 0)
_PIPE_BYTES = 1 << 20
#: Seconds that are made up for, at most.
_MOST_LATE_S = 0.25


class SlowLink:
    """Relays connections to one port of loopback.

    Args:
        to: The port behind the link.
        rate: Bytes a second that a connection gives its client.
        rtt_s: Seconds that a request takes until its answer begins, and so long again to connect.
        reset_every: After so many bytes of all connections together the one that is just busy is reset; 0:
            never.
    """

    def __init__(self, to: int, rate: float, rtt_s: float, reset_every: int) -> None:
        self._to, self._rate, self._rtt_s, self._reset_every = to, rate, rtt_s, reset_every
        # Small against what the rate gives in a second, so that it flows; large, so that it costs little.
        self._chunk = max(16 << 10, min(256 << 10, int(rate / 64)))
        self._passed, self._lock = 0, threading.Lock()

    def serve(self) -> None:
        """Print the port, and serve until killed."""
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            print(listener.getsockname()[1], flush=True)
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client:
            time.sleep(self._rtt_s)
            with socket.create_connection(("127.0.0.1", self._to)) as behind:
                for end in (client, behind):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asking = threading.Thread(target=self._ask, args=(client, behind), daemon=True)
                asking.start()
                with contextlib.suppress(OSError):
                    self._give(behind, client)
                # Whoever is done first, both sides are. The socket must be nobody's when it is closed: a
                # reset is sent no sooner.
                for end in (client, behind):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RD)
                asking.join()

    def _ask(self, client: socket.socket, behind: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(64 << 10):
                time.sleep(self._rtt_s)
                behind.sendall(data)
        with contextlib.suppress(OSError):
            behind.shutdown(socket.SHUT_RDWR)

    def _give(self, behind: socket.socket, client: socket.socket) -> None:
        # When the last byte has left the link, were it exactly as fast as it is to be.
        line = time.monotonic()
        ready = select.poll()
        ready.register(behind, select.POLLIN)
        with _pipe() as (outlet, inlet):
            while True:
                # What waits already is late since this thread is, and that is made up for. What is waited
                # for here is not: a link has nothing for those who did not ask.
                waits = bool(ready.poll(0))
                if not (count := os.splice(behind.fileno(), inlet, self._chunk)):
                    return
                now = time.monotonic()
                line = max(line, now - _MOST_LATE_S if waits else now) + count / self._rate
                if (early := line - time.monotonic()) > 0:
                    time.sleep(early)
                left = count
                while left:
                    left -= os.splice(outlet, client.fileno(), left)
                if self._is_dropped(count):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return

    def _is_dropped(self, count: int) -> bool:
        with self._lock:
            before, self._passed = self._passed, self._passed + count
            every = self._reset_every
            return every > 0 and before // every != self._passed // every


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    outlet, inlet = os.pipe()
    fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        yield outlet, inlet
    finally:
        os.close(outlet)
        os.close(inlet)


@contextmanager
def slow_link(to: int, *, rate: float, rtt_s: float = 0.0, reset_every: int = 0) -> Iterator[int]:
    """Port of a `SlowLink` to a port, in a process that lives as long as the context."""
    command = [sys.executable, __file__, str(to), str(rate), str(rtt_s), str(reset_every)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("to", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("rtt_s", type=float)
    parser.add_argument("reset_every", type=int)
    SlowLink(**vars(parser.parse_args())).serve()


if __name__ == "__main__":
    main()
