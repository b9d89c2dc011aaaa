"""Waiting that ends when the loader shuts down, or when an operator takes it out of service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from modelkeep.exceptions import ServerDrainingException
from modelkeep_loader.domain.requests import News, Tell

#: Seconds between two pieces of news while something is loading: five a second.
_NEWS_S: Final = 0.2
#: Seconds after which to ask again a loader that is out of service: nobody knows how long.
_RETRY_S: Final = 10.0


class Drain:
    """Whether the loader takes new requests, for all that wait. Belongs to one event loop."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._refusing = asyncio.Event()
        self._why = ""

    def begin(self) -> None:
        """The loader shuts down: end what waits here with SERVER_DRAINING, now and from now on."""
        self._begun.set()
        self._refusing.set()

    def close(self, why: str) -> None:
        """An operator takes it out of service: the same, but for leases that are held."""
        self._why = why
        self._refusing.set()

    def reopen(self) -> bool:
        """It is in service again; whether it was not. A shutdown stays one."""
        was_closed = self.is_closed
        if was_closed:
            self._refusing.clear()
        return was_closed

    @property
    def is_closed(self) -> bool:
        """Whether an operator has taken it out of service."""
        return self._refusing.is_set() and not self._begun.is_set()

    @property
    def why(self) -> str | None:
        """What the operator said who took it out of service; None: nobody did."""
        return self._why if self.is_closed else None

    def check(self) -> None:
        """Refuse what is new.

        Raises:
            ServerDrainingException: The loader drains.
        """
        if self._refusing.is_set():
            raise self._refusal()

    def check_running(self) -> None:
        """Refuse what goes on as long as the loader does: leases that are held.

        Raises:
            ServerDrainingException: The loader shuts down.
        """
        if self._begun.is_set():
            raise self._refusal()

    async def follow(
        self, work: asyncio.Future[Any], tell: Tell | None, news: Callable[[], News], patience_s: float = 0
    ) -> None:
        """Wait until work is done, and tell of it after some patience. Cancels it if it raises itself.

        Raises:
            ServerDrainingException: The loader drains first.
        """
        draining = asyncio.ensure_future(self._refusing.wait())
        try:
            # Without patience it begins all the same, so that the first news has something to say.
            await asyncio.wait({work, draining}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            while not work.done():
                if draining.done():
                    raise self._refusal()
                if tell is not None:
                    await tell(news())
                await asyncio.wait({work, draining}, timeout=_NEWS_S, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            work.cancel()
            await asyncio.wait({work})
            raise
        finally:
            draining.cancel()

    async def until(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait for an event; False if it did not come in time.

        Raises:
            ServerDrainingException: The loader shuts down first.
        """
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._begun.wait())}
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not event.is_set() and self._begun.is_set():
            raise ServerDrainingException(
                "The loader is shutting down. What is mapped stays valid; take the lease up again, or "
                "a new one, when it is back.",
                retry_after=1.0,
            )
        return event.is_set()

    def _refusal(self) -> ServerDrainingException:
        if self._begun.is_set():
            return ServerDrainingException("The loader is shutting down.", retry_after=1.0)
        why = f": {self._why.rstrip('.')}" if self._why else ""
        return ServerDrainingException(
            f"An operator has taken the loader out of service{why}. It gives no new leases.",
            retry_after=_RETRY_S,
            remedy="Ask again later; an operator puts it into service again by Undrain.",
        )
