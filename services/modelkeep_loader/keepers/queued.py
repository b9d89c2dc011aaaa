"""What keepers have in common: what shall be kept, and what of that nobody has been told yet."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from modelkeep_keeper import messages

_log = logging.getLogger(__name__)

#: What the system runs short of and then has again, with nothing that tells when.
_SHORT: Final = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
#: Seconds until that is tried again.
_AGAIN_S: Final = 0.1


class Thing(NamedTuple):
    """What shall be kept under a name; the descriptors are the keeper's own."""

    facts: bytes
    descriptors: tuple[int, ...]


class QueuedKeeper(abc.ABC):
    """Says at once what can be said at once, and the rest when the other side reads again.

    A name that changes while it waits keeps its place and is said as it is then: so no more waits than there
    are names, and what was put first is kept first.
    """

    def __init__(self) -> None:
        self._things: dict[str, Thing] = {}
        self._unsaid: dict[str, None] = {}
        #: Whom it is said to; it does not wait. None: nobody, for now.
        self._link: socket.socket | None = None
        self._is_waiting = False
        self._again: asyncio.TimerHandle | None = None
        self._is_closed = False

    def put(self, name: str, facts: bytes, descriptors: Sequence[int] = ()) -> None:
        """See :class:`modelkeep_loader.domain.keeping.Keeper`."""
        if self._is_closed:
            return
        if (
            not 0 < len(name.encode()) <= messages.MAX_NAME_BYTES
            or len(descriptors) >= messages.MAX_DESCRIPTORS
        ):
            _log.error("%.99r is not kept: its name is too long, or it has too many descriptors", name)
            return
        try:
            thing = Thing(facts, duplicates(descriptors))
        except OSError as error:
            _log.warning("%r is not kept: %s", name, error.strerror)
            self.drop(name)
            return
        self._forget(name)
        self._things[name] = thing
        self._unsaid.setdefault(name)
        self._flush()

    def drop(self, name: str) -> None:
        """See :class:`modelkeep_loader.domain.keeping.Keeper`."""
        if self._is_closed:
            return
        self._forget(name)
        self._unsaid.setdefault(name)
        self._flush()

    @abc.abstractmethod
    def _say(self, link: socket.socket, name: str, thing: Thing | None) -> None:
        """Say what a name stands for now; None: for nothing.

        Raises:
            OSError: It cannot be said.
        """

    @abc.abstractmethod
    def _broke(self, error: OSError) -> None:
        """The other side can be told nothing more."""

    def _flush(self) -> None:
        """Say what can be said now."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while self._link is not None and self._has_more():
            try:
                self._say_next(self._link)
            except BlockingIOError:
                self._wait_to_write(True)
                return
            except OSError as error:
                if error.errno not in _SHORT:
                    self._broke(error)
                    return
                self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self._flush)
                return
        self._wait_to_write(False)

    def _has_more(self) -> bool:
        """Whether anything waits to be said."""
        return bool(self._unsaid)

    def _say_next(self, link: socket.socket) -> None:
        """Say what comes next. What was not said whole, which raises an OSError, comes next again."""
        name = next(iter(self._unsaid))
        self._say(link, name, self._things.get(name))
        del self._unsaid[name]

    def _wait_to_write(self, waits: bool) -> None:
        """Look, or look no more, whether the other side reads."""
        if self._link is None or waits == self._is_waiting:
            return
        self._is_waiting = waits
        loop = asyncio.get_running_loop()
        if waits:
            loop.add_writer(self._link, self._flush)
        else:
            loop.remove_writer(self._link)

    def _hang_up(self) -> socket.socket | None:
        """Say nothing more; the link, which the caller closes."""
        self._wait_to_write(False)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        link, self._link = self._link, None
        return link

    async def _said_all(self, seconds: float) -> bool:
        """Wait until nothing waits to be said; False if it still does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._has_more() and self._link is not None:  # noqa: ASYNC110  the other side has to read
                    await asyncio.sleep(0.01)
        return not self._has_more()

    def _forget(self, name: str) -> None:
        if (old := self._things.pop(name, None)) is not None:
            messages.close_all(old.descriptors)

    def _forget_all(self) -> None:
        for name in list(self._things):
            self._forget(name)
        self._unsaid.clear()


def duplicates(descriptors: Sequence[int]) -> tuple[int, ...]:
    """Further descriptors of the same open files."""
    made: list[int] = []
    try:
        for descriptor in descriptors:
            made.append(os.dup(descriptor))
    except OSError:
        messages.close_all(made)
        raise
    return tuple(made)
