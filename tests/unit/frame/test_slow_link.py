"""The link that benchmarks slow down by: what it gives a connection is what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.slowlink import slow_link

RATE = 2_000_000
SIZE = 1_000_000


@pytest.fixture
def giver() -> Iterator[int]:
    """Port of a server that answers each byte with SIZE bytes, at once."""

    def give(connection: socket.socket) -> None:
        with connection:
            try:
                while connection.recv(1):
                    connection.sendall(bytes(SIZE))
            except OSError:
                return  # the link has dropped it

    def serve() -> None:
        while True:
            try:
                threads.append(threading.Thread(target=give, args=(listener.accept()[0],)))
            except OSError:
                return  # closed
            threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads.append(threading.Thread(target=serve))
        threads[0].start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


def ask(port: int, times: int = 1) -> float:
    """Seconds until so many answers have come over one connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        begin = time.perf_counter()
        for _ in range(times):
            connection.sendall(b"?")
            left = SIZE
            while left and (data := connection.recv(left)):
                left -= len(data)
            assert left == 0
        return time.perf_counter() - begin


def test_a_slow_link_gives_each_connection_its_rate_whatever_others_take_and_however_often_it_asks(
    giver: int,
) -> None:
    with slow_link(giver, rate=RATE) as port, ThreadPoolExecutor(3) as pool:
        alone = ask(port)
        together = list(pool.map(lambda _: ask(port, times=2), range(3)))
    # Never faster than the rate; half a second and one, unless the machine is busy.
    assert 0.45 <= alone <= 8
    assert all(0.95 <= seconds <= 10 for seconds in together)


def test_a_slow_link_takes_its_time_to_connect_and_again_until_each_answer(giver: int) -> None:
    with slow_link(giver, rate=1e9, rtt_s=0.2) as port:
        assert ask(port, times=2) >= 0.6


def test_a_slow_link_resets_the_connection_that_takes_the_byte_after_so_many(giver: int) -> None:
    with slow_link(giver, rate=1e9, reset_every=2 * SIZE + 1) as port:
        ask(port, times=2)
        with pytest.raises(ConnectionResetError):
            ask(port)
        ask(port)
