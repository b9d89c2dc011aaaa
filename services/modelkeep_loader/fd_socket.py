"""The descriptor socket: hands the sealed memory of a lease to the process that has its ticket.

A client connects (UNIX, SOCK_STREAM) and sends the 32 bytes of its ticket. The answer is one byte: 0 with
the descriptors attached, in the order of the lease's components; or 1, followed by the reason's name, a
colon and a sentence, and the end. The connection then stays open: it is a binding of the lease, and its
end, or the death of the process that made it, takes the binding away.

The folder of the socket belongs to the user and is closed to all others; a peer with another user id is
refused even so.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from modelkeep.defaults import EXIT_ADDRESS_TAKEN, EXIT_CONFIG, EXIT_NOT_WRITABLE
from modelkeep.exceptions import ForbiddenTicketException, ModelkeepError, ServerBusyException
from modelkeep.locks import LockedError, remove_lock, take_lock
from modelkeep.private import MAX_SOCKET_BYTES, UnsafeFolderError, make_private, runtime_folder
from modelkeep_common.startup import StartupError
from modelkeep_loader.domain.tickets import SECRET_BYTES
from modelkeep_loader.processes import DeathWatch, peer_of

_log = logging.getLogger(__name__)

_SOCKET: Final = "fd.sock"
_LOCK: Final = "fd.lock"
#: Seconds that a client has to send its ticket.
_TICKET_TIMEOUT_S = 5.0
#: Connections that may be open without having sent one, and how many are ended where there is no descriptor
#: left for the next.
_MOST_SILENT: Final = 256
_GIVEN_UP: Final = 8
#: Seconds until the next try then; and between two looks at what a client says who should be silent.
_PAUSE_S: Final = 0.1


class Connection(Protocol):
    """What a redeemed ticket gives."""

    def descriptors(self) -> Sequence[int]:
        """New descriptors of the lease's memory; the caller closes them."""
        ...

    @property
    def ended(self) -> asyncio.Event:
        """Set when the connection is of no more use."""
        ...

    def closed(self) -> None:
        """The connection is gone."""
        ...


class Desk(Protocol):
    """Who knows the tickets."""

    def redeem(self, ticket: bytes, pid: int, uid: int) -> Connection:
        """Use a ticket up, for the process and the user at the other end; ``pid`` is 0 where unknown.

        Raises:
            ForbiddenTicketException: The ticket is no good.
            ServerBusyException: Its lease has as many connections as it may.
        """
        ...


def socket_folder(service_dir: Path, configured: Path | None = None) -> Path:
    """Where the descriptor socket of the loader with this data folder is; see ``runtime_folder``.

    The same from start to start, so that a stale socket is found and replaced.

    Raises:
        StartupError: 78 if the path would be too long for a UNIX socket.
    """
    if configured is None:
        try:
            return runtime_folder(service_dir, _SOCKET)
        except UnsafeFolderError as error:
            raise StartupError(EXIT_CONFIG, f"{error}, or set descriptor_dir") from None
    folder = configured.absolute()
    if len(os.fsencode(folder / _SOCKET)) > MAX_SOCKET_BYTES:
        raise StartupError(
            EXIT_CONFIG,
            f"{folder / _SOCKET} is longer than the {MAX_SOCKET_BYTES} bytes that the path of a UNIX socket "
            "may have: set descriptor_dir to a shorter folder",
        )
    return folder


class DescriptorServer:
    """Serves the socket in a folder until closed.

    Args:
        folder: Where the socket is.
        desk: Who knows the tickets.
        deaths: Is told of every process that gets descriptors.
        is_runtime: Whether the folder is one of ``socket_folder``'s own, which goes with the socket.
    """

    def __init__(self, folder: Path, desk: Desk, deaths: DeathWatch, *, is_runtime: bool = False) -> None:
        self._is_runtime = is_runtime
        self.path = folder / _SOCKET
        self._desk = desk
        self._deaths = deaths
        self._listener: socket.socket | None = None
        self._lock = -1
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those that have not sent their ticket yet, the oldest first.
        self._silent: dict[asyncio.Task[None], None] = {}

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            StartupError: 73 if the folder cannot be made private, 98 if another loader serves there.
        """
        self._listener = await asyncio.to_thread(self._listen)
        self._spawn(self._accept(self._listener))

    async def close(self) -> None:
        """Stop listening and close every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.to_thread(self.path.unlink, missing_ok=True)
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            await asyncio.to_thread(self._tidy, lock)

    def _tidy(self, lock: int) -> None:
        """Leave nothing behind; the folders go if nobody else has something in them."""
        remove_lock(self.path.parent / _LOCK, lock)
        with contextlib.suppress(OSError):
            for folder in (self.path.parent, self.path.parent.parent) if self._is_runtime else ():
                folder.rmdir()

    def _listen(self) -> socket.socket:
        self._lock = _private_folder(self.path.parent)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setblocking(False)
            self.path.unlink(missing_ok=True)  # of a loader that was killed: the lock says it is gone
            listener.bind(str(self.path))
            self.path.chmod(0o600)
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise StartupError(EXIT_NOT_WRITABLE, f"cannot listen on {self.path}: {error.strerror}") from None
        return listener

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors: those that wait go on waiting, and who has sent nothing makes room.
                _log.warning("cannot accept a connection on the descriptor socket: %s", error)
                self._drop_silent(_GIVEN_UP)
                await asyncio.sleep(_PAUSE_S)
                continue
            connection.setblocking(False)
            self._drop_silent(len(self._silent) + 1 - _MOST_SILENT)
            task = self._spawn(self._serve(connection))
            # Not by the task itself: one that is cancelled before its first step never runs.
            task.add_done_callback(partial(_close, connection))
            self._silent[task] = None
            # An accept that finds somebody waiting does not give way: a crowd would hold up the loop.
            await asyncio.sleep(0)

    def _drop_silent(self, count: int) -> None:
        """End so many of those that have sent nothing, the oldest first: whoever means it sends at once."""
        for oldest in list(self._silent)[: max(0, count)]:
            del self._silent[oldest]
            oldest.cancel()

    async def _serve(self, connection: socket.socket) -> None:
        granted = await self._granted(connection)
        if granted is None:
            return
        try:
            try:
                descriptors = await self._opened(granted)
            except OSError as error:
                _log.warning("the descriptors of a lease cannot be opened: %s", error)
                busy = ServerBusyException(
                    f"The loader cannot open the memory ({error.strerror}).",
                    remedy="Try again with a new ticket (RenewLease), or raise the limit of open files.",
                )
                _refuse(connection, busy)
                return
            _send(connection, descriptors)
            await _until_end(connection, granted.ended)
        except OSError as error:
            _log.info("a connection of the descriptor socket broke: %s", error)
        finally:
            granted.closed()

    async def _opened(self, granted: Connection) -> Sequence[int]:
        """The descriptors of a lease. Who has sent nothing makes room for them, too.

        Raises:
            OSError: They cannot be opened.
        """
        while self._silent:
            try:
                return granted.descriptors()
            except OSError:
                self._drop_silent(_GIVEN_UP)
                await asyncio.sleep(0)  # their ends
                await asyncio.sleep(0)  # and then their connections'
        return granted.descriptors()

    async def _granted(self, connection: socket.socket) -> Connection | None:
        """What the ticket that comes on the connection gives; None, and said to the client, if nothing."""
        loop = asyncio.get_running_loop()
        try:
            ticket = b""
            async with asyncio.timeout(_TICKET_TIMEOUT_S):
                while len(ticket) < SECRET_BYTES:
                    data = await loop.sock_recv(connection, SECRET_BYTES - len(ticket))
                    if not data:
                        return None
                    ticket += data
            return self._redeem(ticket, connection)
        except (TimeoutError, OSError):
            return None
        except ModelkeepError as error:
            _refuse(connection, error)
            return None
        finally:
            if (task := asyncio.current_task()) is not None:
                self._silent.pop(task, None)

    def _redeem(self, ticket: bytes, connection: socket.socket) -> Connection:
        peer = peer_of(connection)
        try:
            if peer.uid != os.geteuid():
                raise ForbiddenTicketException(
                    f"One loader serves one user: this one the uid {os.geteuid()}, and not {peer.uid}.",
                    remedy="Run the worker as the loader's user, or a loader as the worker's.",
                )
            granted = self._desk.redeem(ticket, peer.pid, peer.uid)
        except BaseException:
            if peer.pidfd >= 0:
                os.close(peer.pidfd)
            raise
        if peer.pidfd >= 0:
            self._deaths.watch(peer.pid, peer.pidfd)
        return granted

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _close(connection: socket.socket, _: asyncio.Task[None]) -> None:
    connection.close()


async def _until_end(connection: socket.socket, ended: asyncio.Event) -> None:
    """Wait until either side ends it."""
    loop = asyncio.get_running_loop()

    async def read() -> None:
        with contextlib.suppress(OSError):
            # Whatever comes is ignored; what matters is the end. Reading what is there already does not give
            # way, so that whoever never stops talking would hold up the loop.
            while await loop.sock_recv(connection, 4096):  # noqa: ASYNC110  nothing tells the end but reading
                await asyncio.sleep(_PAUSE_S)

    waits = {asyncio.ensure_future(read()), asyncio.ensure_future(ended.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _refuse(connection: socket.socket, error: ModelkeepError) -> None:
    with contextlib.suppress(OSError):
        connection.send(b"\x01" + f"{error.reason}: {error.message}".encode())


def _send(connection: socket.socket, descriptors: Sequence[int]) -> None:
    try:
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        connection.sendmsg([b"\x00"], ancillary)
    finally:
        for fd in descriptors:
            os.close(fd)


def _private_folder(folder: Path) -> int:
    """Make the folder, check that it is the user's alone, and lock it; the lock's descriptor."""
    try:
        make_private(folder)
        try:
            return take_lock(folder / _LOCK)
        except FileNotFoundError:  # a loader that ends took the folder away just now
            make_private(folder)
            return take_lock(folder / _LOCK)
    except LockedError:
        raise StartupError(
            EXIT_ADDRESS_TAKEN, f"another loader serves descriptors in {folder}: stop it, or set data_dir"
        ) from None
    except UnsafeFolderError as error:
        raise StartupError(EXIT_NOT_WRITABLE, f"{error}, or set descriptor_dir") from None
    except OSError as error:
        raise StartupError(EXIT_NOT_WRITABLE, f"cannot make {folder}: {error.strerror}") from None
