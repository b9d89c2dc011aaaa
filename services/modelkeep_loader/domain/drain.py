"""Waiting that ends when the loader shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from modelkeep.exceptions import ServerDrainingException
from modelkeep_loader.domain.requests import News, Tell

#: Seconds between two pieces of news while something is loading: five a second.
_NEWS_S: Final = 0.2


class Drain:
    """Whether the loader shuts down, for all that wait. Belongs to one event loop."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """End what waits here with SERVER_DRAINING, now and from now on."""
        self._begun.set()

    async def follow(
        self, work: asyncio.Future[Any], tell: Tell | None, news: Callable[[], News], patience_s: float = 0
    ) -> None:
        """Wait until work is done, and tell of it after some patience. Cancels it if it raises itself.

        Raises:
            ServerDrainingException: The loader drains first.
        """
        draining = asyncio.ensure_future(self._begun.wait())
        try:
            # Without patience it begins all the same, so that the first news has something to say.
            await asyncio.wait({work, draining}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            while not work.done():
                if draining.done():
                    raise ServerDrainingException("The loader is shutting down.", retry_after=1.0)
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
            ServerDrainingException: The loader drains first.
        """
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._begun.wait())}
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not event.is_set() and self._begun.is_set():
            raise ServerDrainingException(
                "The loader is shutting down. What is mapped stays valid; take a new lease when it is back.",
                retry_after=1.0,
            )
        return event.is_set()
