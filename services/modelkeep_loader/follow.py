"""Following the records: what is resident of a model that was removed is of no more use."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from modelkeep.exceptions import UnknownModelException
from modelkeep_common.following import follow
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.domain.records import FollowedRecords, Removals

_LAST_RETRY_S: Final = 30.0


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
        await follow(self._records.removals, self._take, what="records", last_retry_s=_LAST_RETRY_S)

    async def _take(self, news: Removals, is_first: bool) -> None:
        if is_first:
            await self._look_at_all()
        for key in news.keys:
            self._lending.tiers.model_removed(key)

    async def _look_at_all(self) -> None:
        """Nothing tells what was removed before this history: ask for each that is known."""
        for key in self._lending.tiers.known_keys():
            try:
                await self._records.get(key)
            except UnknownModelException:
                self._lending.tiers.model_removed(key)
