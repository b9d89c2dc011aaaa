"""Whether models are where their records say: looked at every few seconds, and noted in the records.

See docs/adr/0011-missing-models-are-noticed-by-the-installer.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from modelkeep.exceptions import ModelkeepError, UpstreamUnavailableException
from modelkeep_common.following import follow

from .domain.ports import FollowedRecords, Mark, Place, RecordNews
from .domain.roots import ModelRoots

_log = logging.getLogger(__name__)

_LAST_RETRY_S = 5.0
#: How long a caller waits for the records to be known.
_PATIENCE_S = 5.0
#: A look takes at most one part in so many of the time.
_SHARE = 100
#: Records that are marked in one call.
_BATCH = 1000


class Look(NamedTuple):
    """What one look found."""

    checked_count: int
    missing_keys: list[str]
    changed_count: int


class Presence:
    """Follows the records, and looks whether their models are there.

    Args:
        records: RecordService.
        roots: Where relative paths begin.
        every_s: Seconds between two looks; 0: only when asked.
    """

    def __init__(self, records: FollowedRecords, roots: ModelRoots, every_s: float) -> None:
        self._records = records
        self._roots = roots
        self._every_s = every_s
        self._places: dict[str, Place] = {}
        self._known = asyncio.Event()
        self._alone = asyncio.Lock()
        # A path on a file system that hangs keeps this thread waiting, and nobody else.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="presence")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to follow and to look."""
        self._tasks = [asyncio.create_task(self._follow(), name="follow-records")]
        if self._every_s:
            self._tasks.append(asyncio.create_task(self._look_often(), name="look-for-models"))

    async def close(self) -> None:
        """Stop both; a look that hangs is left behind."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def check(self, keys: Collection[str] = ()) -> Look:
        """Look now, and note what changed.

        Args:
            keys: Only these models; none: all.

        Raises:
            UpstreamUnavailableException: RecordService does not answer.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._known.wait()
        except TimeoutError:
            raise UpstreamUnavailableException(
                "RecordService does not answer, so that nobody knows where models are.",
                metadata={"peer": "record"},
            ) from None
        async with self._alone:
            wanted = set(keys)
            places = {key: place for key, place in self._places.items() if not keys or key in wanted}
            loop = asyncio.get_running_loop()
            there = await loop.run_in_executor(self._thread, self._look, places)
            marks = [
                Mark(key, places[key].path, places[key].root_id, not found)
                for key, found in there.items()
                if places[key].missing == found
            ]
            changed = 0
            for first in range(0, len(marks), _BATCH):
                changed += await self._records.mark(marks[first : first + _BATCH])
            for mark in marks:
                if self._places.get(mark.key) == places[mark.key]:  # until the watch tells of it
                    self._places[mark.key] = places[mark.key]._replace(missing=mark.missing)
            return Look(len(there), [key for key, found in there.items() if not found], changed)

    def _look(self, places: Mapping[str, Place]) -> dict[str, bool]:
        """Of each model that can be looked at, whether it is there."""
        found: dict[str, bool] = {}
        # Texts in place of Path objects: those would take longer than the looks.
        models_dir = str(self._roots.models_dir)
        for key, place in places.items():
            if place.path.startswith("/") or place.root_id == self._roots.root_id:
                there = is_there(os.path.join(models_dir, place.path))
                if there is not None:
                    found[key] = there
        return found

    async def _look_often(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                await self.check()
            except ModelkeepError as error:
                _log.info("it was not looked for missing models: %s", error.reason)
            except Exception:
                _log.exception("looking for missing models failed by a defect; it goes on")
            await asyncio.sleep(max(self._every_s, _SHARE * (time.monotonic() - begun)))

    async def _follow(self) -> None:
        await follow(
            self._records.follow, self._take, what="records", last_retry_s=_LAST_RETRY_S, begin=self._forget
        )

    def _forget(self) -> None:
        self._known.clear()
        self._places.clear()

    async def _take(self, news: RecordNews, is_first: bool) -> None:
        self._places.update(news.places)
        for key in news.removed:
            self._places.pop(key, None)
        if news.complete:
            self._known.set()


def is_there(path: str | Path) -> bool | None:
    """Whether a model is at a path, a file or a folder that is not empty; None if it cannot be told."""
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return True
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # no permission, a file system that fails, a path that none can have
        return None
