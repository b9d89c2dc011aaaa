"""The descriptor socket, from the worker's side."""

from __future__ import annotations

import os
import socket
import time
import weakref
from collections.abc import Sequence

from modelkeep.exceptions import (
    BY_REASON,
    ForbiddenPathException,
    ModelkeepError,
    UpstreamUnavailableException,
    WrongHostException,
)

_TIMEOUT_S = 10.0
_MAX_DESCRIPTORS = 253

#: Open connections of this process. They keep leases alive, and a forked child must not do that.
_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def fetch_descriptors(socket_path: str, ticket: bytes, count: int) -> tuple[socket.socket, list[int]]:
    """Hand a ticket in.

    Returns:
        The connection, which is a binding of the lease while it is open, and the descriptors, closed on
        exec; the caller closes all of them.

    Raises:
        ForbiddenTicketException: The ticket is wrong, used or too old.
        WrongHostException: There is no such socket here.
        UpstreamUnavailableException: The loader went away meanwhile, or does not answer.
        ModelkeepError: This process cannot take as many descriptors.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_TIMEOUT_S)
        try:
            _connect(connection, socket_path)
        except (ConnectionRefusedError, BlockingIOError) as error:
            raise UpstreamUnavailableException(
                f"The loader does not answer at its descriptor socket ({error.strerror}): try again."
            ) from None
        except OSError as error:
            raise WrongHostException(
                f"The loader's descriptor socket {socket_path} cannot be reached ({error.strerror}): "
                "the worker must run on the loader's host and see its folder."
            ) from None
        try:
            descriptors = _exchange(connection, ticket)
        except OSError as error:
            raise UpstreamUnavailableException(
                f"The loader broke off while it handed the weights over ({error}): try again."
            ) from None
        if len(descriptors) != count:
            for fd in descriptors:
                os.close(fd)
            raise ModelkeepError(
                f"Only {len(descriptors)} of {count} descriptors came over: this process has too many files "
                "open; raise its limit (ulimit -n)."
            )
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    _open.add(connection)
    return connection, descriptors


def open_paths(paths: Sequence[str], folder: str | os.PathLike[str] | None = None) -> list[int]:
    """Open the files of a grant with DELIVERY_PATH.

    Args:
        paths: As the grant tells them.
        folder: Where this process sees the folder that they lie in; None: where the loader does.

    Returns:
        Descriptors, closed on exec; the caller closes them.

    Raises:
        ForbiddenPathException: This process may not read them.
        WrongHostException: They are not there.
    """
    descriptors: list[int] = []
    try:
        for path in paths:
            here = os.path.join(folder, os.path.basename(path)) if folder is not None else path
            try:
                descriptors.append(os.open(here, os.O_RDONLY | os.O_CLOEXEC))
            except PermissionError:
                raise ForbiddenPathException(
                    f"{here} cannot be read by the uid {os.geteuid()}: one loader serves one user.",
                    metadata={"path": here},
                    remedy="Run the worker as the loader's user, or a loader as the worker's.",
                ) from None
            except OSError as error:
                raise WrongHostException(
                    f"{here} cannot be opened ({error.strerror}): the worker must see the loader's path_dir.",
                    remedy="Mount path_dir of LoaderService read-only here, and say where (path_dir).",
                ) from None
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise
    return descriptors


def _connect(connection: socket.socket, path: str) -> None:
    """Connect. The kernel does not wait for room among those not yet accepted when there is a timeout."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return connection.connect(path)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _exchange(connection: socket.socket, ticket: bytes) -> list[int]:
    connection.sendall(ticket)
    data, descriptors, _flags, _address = socket.recv_fds(
        connection, 1, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if data == b"\x00":
        return descriptors
    for fd in descriptors:
        os.close(fd)
    if not data:
        raise ConnectionResetError("closed without an answer")
    raise _refusal(connection)


def _refusal(connection: socket.socket) -> ModelkeepError:
    text = b""
    while len(text) < 4096 and (data := connection.recv(4096)):
        text += data
    reason, _, message = text.decode("utf-8", "replace").partition(": ")
    cls = BY_REASON.get(reason)
    return (
        cls(message) if cls is not None else ModelkeepError(f"The descriptor socket answered {text[:200]!r}.")
    )


def _close_in_child() -> None:
    for connection in list(_open):
        connection.close()


os.register_at_fork(after_in_child=_close_in_child)
