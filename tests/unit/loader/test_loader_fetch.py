"""The worker's end of the descriptor socket, against loaders that break off."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from modelkeep.exceptions import ModelkeepError, UpstreamUnavailableException, WrongHostException
from modelkeep.worker._fetch import fetch_descriptors


@pytest.fixture
def loader_that(data_dir: Path) -> Callable[[Callable[[socket.socket], object]], str]:
    """The path of a socket at which one connection is served by a function, and then closed."""

    def listen(serve: Callable[[socket.socket], object]) -> str:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(data_dir / "fd.sock"))
        listener.listen(1)

        def accept() -> None:
            with listener, listener.accept()[0] as connection:
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        return str(data_dir / "fd.sock")

    return listen


LoaderThat = Callable[[Callable[[socket.socket], object]], str]


def test_a_loader_that_dies_at_the_hand_over_is_unavailable(loader_that: LoaderThat) -> None:
    path = loader_that(lambda connection: connection.recv(1))  # and resets what is left unread
    with pytest.raises(UpstreamUnavailableException):
        fetch_descriptors(path, bytes(32), 1)
    with pytest.raises(WrongHostException):
        fetch_descriptors(path + "-of-nobody", bytes(32), 1)


def test_fewer_descriptors_than_granted_are_told_at_once_and_why(loader_that: LoaderThat) -> None:
    done = threading.Event()

    def send_none(connection: socket.socket) -> None:
        connection.recv(32)
        connection.sendall(b"\x00")
        done.wait(60)

    path = loader_that(send_none)
    with pytest.raises(ModelkeepError, match="ulimit"):
        fetch_descriptors(path, bytes(32), 1)
    done.set()


def test_a_loader_that_has_just_died_is_unavailable(data_dir: Path) -> None:
    path = str(data_dir / "fd.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
    with pytest.raises(UpstreamUnavailableException):
        fetch_descriptors(path, bytes(32), 1)


def test_a_loader_that_is_slow_to_accept_is_waited_for(data_dir: Path) -> None:
    path = str(data_dir / "fd.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as before:
        listener.bind(path)
        listener.listen(0)
        before.connect(path)  # and no more fit

        def serve() -> None:
            listener.accept()[0].close()
            with listener.accept()[0] as connection:
                connection.recv(32)
                connection.sendall(b"\x00")
                connection.recv(1)

        late = threading.Timer(0.2, serve)
        late.start()
        connection, descriptors = fetch_descriptors(path, bytes(32), 0)
        connection.close()
        late.join()
    assert descriptors == []
