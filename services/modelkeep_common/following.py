"""Following another service's watch without end: over lost connections, and on to another store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, Protocol, TypeVar

from modelkeep.backoff import Backoff
from modelkeep.exceptions import InvalidRequestException, ModelkeepError

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1


class News(Protocol):
    """A frame of a watch."""

    @property
    def resume_token(self) -> str:
        """From which a watch goes on after it."""


N = TypeVar("N", bound=News)


async def follow(
    watch: Callable[[str], AsyncIterator[N]],
    take: Callable[[N, bool], Awaitable[None]],
    *,
    what: str,
    last_retry_s: float,
    begin: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Hand on all that a watch tells, until it is cancelled.

    A watch that breaks off is taken up where it was, after a wait that doubles from 0.1 s. Where that cannot
    be, since the service has another store or has forgotten by then, it begins with a snapshot.

    Args:
        watch: Opens it, from a token on; from an empty one with a snapshot.
        take: Called with each frame, and whether none came before it in this store's history. A
            ModelkeepError of its own breaks the watch off before this frame.
        what: What is watched, for the log.
        last_retry_s: The longest wait, in seconds.
        begin: Called before each watch that begins with a snapshot.
    """
    token = ""
    waits = Backoff(_FIRST_RETRY_S, last_retry_s)
    while True:
        if not token:
            begin()
        try:
            async for news in watch(token):
                waits.reset()
                await take(news, not token)
                token = news.resume_token
        except InvalidRequestException:
            token = ""  # another store, or too long ago
        except ModelkeepError as error:
            _log.info("the watch of %s ended: %s", what, error.reason)
        await asyncio.sleep(waits.next())
