"""Following the records: what is resident of a model that was removed is of no more use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from modelkeep.backoff import Backoff
from modelkeep.exceptions import InvalidRequestException, ModelkeepError, UnknownModelException
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.domain.records import FollowedRecords

_log = logging.getLogger(__name__)

_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 30.0
#: What is told when a model may have been removed unseen, and RecordService does not answer.
_LATER: Final = "whether models were removed is asked again later: %s"


class RemovalFollower:
    """Tells the core of every model that is removed, also of those while RecordService was away.

    Args:
        records: Where records come from.
        lending: Is told.
    """

    def __init__(self, records: FollowedRecords, lending: Lending) -> None:
        self._records = records
        self._lending = lending
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to follow."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="follow records")

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        token = ""
        waits = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        while True:
            try:
                async for news in self._records.removals(token):
                    waits.reset()
                    if not token:
                        await self._look_at_all()
                    token = news.resume_token
                    for key in news.keys:
                        self._lending.model_removed(key)
            except InvalidRequestException:
                token = ""  # another store, or too long ago
            except ModelkeepError as error:
                _log.info(_LATER, error.reason)
            await asyncio.sleep(waits.next())

    async def _look_at_all(self) -> None:
        """Nothing tells what was removed before this history: ask for each that is known."""
        for key in self._lending.cache.known_keys():
            try:
                await self._records.get(key)
            except UnknownModelException:
                self._lending.model_removed(key)
