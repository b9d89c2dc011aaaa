"""The keeper's one loop: hears a loader, keeps what it says, and waits for the next one when it is gone."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import Final

from modelkeep_keeper import messages
from modelkeep_keeper.messages import GarbageError, Kind, Message
from modelkeep_keeper.shelf import Shelf

#: Messages that are read before others get their turn.
_AT_ONCE: Final = 64
#: Messages of a loader before that can be waiting when the next one comes; the kernel queues fewer.
_UNREAD: Final = 100_000
#: Longest wait for something to happen; the system takes no number that is much larger.
_LONGEST_S: Final = 86_400.0
#: Seconds to wait where the system has no more of something, which nothing tells the end of.
_PAUSE_S: Final = 0.02


class KeeperServer:
    """Serves one loader after the other. The one that came last is heard; what others said before counts.

    Args:
        listener: Where loaders come from; its user's only.
        shelf: Where things go.
        linger_s: Seconds that things wait for the next loader.
        stays: Afterwards go on without things, and do not end.
        say: Takes one line for the log.
    """

    def __init__(
        self,
        listener: socket.socket,
        shelf: Shelf,
        *,
        linger_s: float,
        stays: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self._listener, self._shelf, self._say = listener, shelf, say
        self._linger_s, self._stays = linger_s, stays
        self._selector = selectors.DefaultSelector()
        self._loader: socket.socket | None = None
        #: Names that the loader has still to be told; None: it has not asked, or was told all.
        self._untold: list[str] | None = None
        self._deadline = time.monotonic() + linger_s
        self._ended = False

    def serve(self) -> None:
        """Until a loader says that it is the end, or none comes; gives everything back."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while not self._ended:
                left = self._deadline - time.monotonic()
                waits = None if self._loader is not None else min(max(0.0, left), _LONGEST_S)
                if self._stays and not self._shelf:
                    waits = None
                for key, mask in self._selector.select(waits):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._loader:  # and not of one that went a moment ago
                        self._attend(mask)
                if self._loader is None and time.monotonic() >= self._deadline:
                    self._give_up()
        finally:
            # In this order: whoever sees the connection end knows that all has been given back.
            self._shelf.clear()
            if self._loader is not None:
                self._loader.close()
            self._selector.close()

    # Loaders come and go.

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of descriptors: whoever waits goes on waiting
            self._say(f"cannot accept a loader: {error.strerror}")
            time.sleep(_PAUSE_S)
            return
        pid, uid = messages.peer_of(connection)
        if uid != os.geteuid():
            self._say(f"refused process {pid} of the user {uid}: this keeper is the user {os.geteuid()}'s")
            connection.close()
            return
        if self._loader is not None:
            self._hear(_UNREAD)
        if self._loader is not None:
            self._say("another loader came while one was there, and takes its place")
            self._let_go()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._loader = connection
        self._say(f"process {pid} came; {self._kept()}")

    def _let_go(self) -> None:
        assert self._loader is not None
        self._selector.unregister(self._loader)
        self._loader.close()
        self._loader, self._untold = None, None
        self._deadline = time.monotonic() + self._linger_s

    def _give_up(self) -> None:
        if self._shelf:
            self._say(f"no loader came within {self._linger_s:g} s: {self._kept()}, given back")
        self._shelf.clear()
        self._ended = not self._stays

    # One loader.

    def _attend(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._tell()
        if mask & selectors.EVENT_READ:
            self._hear(_AT_ONCE)

    def _hear(self, most: int) -> None:
        """Read messages for as long as there are some, the loader is, and it has not said the end."""
        for _ in range(most):
            if self._loader is None or self._ended:
                return
            try:
                message = messages.receive(self._loader)
            except BlockingIOError:
                return
            except GarbageError as error:
                self._say(f"a message that is none, so the connection ends: {error}")
                self._let_go()
                return
            except OSError as error:
                self._say(f"the connection broke: {error.strerror}")
                self._let_go()
                return
            if message is None:
                self._say(f"the loader is gone; {self._kept()}, for {self._linger_s:g} s")
                self._let_go()
                return
            self._obey(message)

    def _obey(self, message: Message) -> None:
        if message.kind is Kind.PUT:
            self._put(message)
        elif message.kind is Kind.DROP:
            self._shelf.drop(message.name)
        elif message.kind is Kind.LIST:
            self._untold = list(self._shelf)
            self._tell()
        elif message.kind is Kind.END:
            self._say(f"the loader has ended; {self._kept()}, given back")
            self._shelf.clear()
            if self._stays:
                self._let_go()
            self._ended = not self._stays
        else:
            messages.close_all(message.descriptors)
            self._say(f"a loader does not say {message.kind.name}, so the connection ends")
            self._let_go()

    def _put(self, message: Message) -> None:
        if message.is_cut:
            messages.close_all(message.descriptors)
            self._shelf.drop(message.name)
        elif self._shelf.put(message.name, message.descriptors):
            return
        self._say(
            f"{message.name!r} is not kept: out of descriptors, with {self._shelf.descriptors} in use "
            "(the hard limit of open files is the bound: ulimit -Hn, LimitNOFILE=)"
        )

    def _tell(self) -> None:
        """Tell the loader what there is, as quickly as it reads."""
        assert self._loader is not None
        try:
            while self._untold:
                if descriptors := self._shelf.get(self._untold[0]):
                    messages.send(self._loader, Kind.THING, self._untold[0], descriptors)
                del self._untold[0]
            if self._untold is not None:
                messages.send(self._loader, Kind.ALL)
                self._untold = None
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                return  # it is gone, which reading will find
            time.sleep(_PAUSE_S)
        events = (
            selectors.EVENT_READ if self._untold is None else selectors.EVENT_READ | selectors.EVENT_WRITE
        )
        self._selector.modify(self._loader, events)

    def _kept(self) -> str:
        return f"{len(self._shelf)} things are kept in {self._shelf.descriptors} descriptors"
