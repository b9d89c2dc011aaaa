"""The thread that writes a file of records, and looks after what others write.

Changes that are asked for while one is being written are then written together. A unit of work that fails
undoes itself and not its neighbours, and none is answered before the file is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from modelkeep.reserve import Reserve, is_full
from modelkeep_common.at_once import run_at_once
from modelkeep_common.gates import closed
from modelkeep_common.idempotency import request_id_reused

from ..store import Once, Unit
from .answers import Answers
from .file import MOST_TRIES, ChangedMeanwhileError, YamlFile, translated
from .transaction import Transaction

#: How often the file is looked at when nothing is written.
LOOK_S: Final = 0.5
#: Units of work that are written together.
_MOST_TOGETHER: Final = 500

_log = logging.getLogger(__name__)


class _Job(NamedTuple):
    unit: Unit
    once: Once
    grows: bool
    future: asyncio.Future[bytes]
    context: contextvars.Context


_Outcome = tuple[_Job, bytes | None, BaseException | None]


class Writer:
    """Runs units of work one after the other. Belongs to the event loop that made it.

    Args:
        file: The file, open.
        reserve: Room for the way out of a full disk.
        answers: The answers for requests that come again.
    """

    def __init__(self, file: YamlFile, reserve: Reserve, answers: Answers) -> None:
        self._file = file
        self._reserve = reserve
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True, name=f"{file.path.stem}-writer")
        self._thread.start()

    def submit(self, unit: Unit, once: Once, *, grows: bool) -> asyncio.Future[bytes]:
        """What the unit of work returns, when it has been written."""
        if self._closed:
            raise closed()
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._jobs.put(_Job(unit, once, grows, future, contextvars.copy_context()))
        return future

    async def close(self) -> None:
        """Finish what was asked for, and end. May be called twice."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call something on the event loop; it may be gone after an abrupt end."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    # On the thread.

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=LOOK_S)
            except queue.Empty:
                self._look()
                continue
            jobs: list[_Job] = []
            while job is not None:
                jobs.append(job)
                if self._jobs.empty() or len(jobs) >= _MOST_TOGETHER:
                    break
                job = self._jobs.get()
            if jobs:
                self.call_soon(_deliver, self._run(jobs))
            if job is None:
                return

    def _look(self) -> None:
        was_broken = self._file.broken
        try:
            self._reserve.renew()
            self._file.look()
        except Exception as error:  # the next look may go better, and the thread must go on
            _log.warning("%s cannot be looked at: %s", self._file.path, error)
        self._tell_broken(was_broken)

    def _tell_broken(self, before: BaseException | None) -> None:
        now = self._file.broken
        if now is not None and now is not before:
            _log.error("the records cannot be changed until their file is mended: %s", now)
        elif now is None and before is not None:
            _log.info("%s is mended", self._file.path)

    def _run(self, jobs: list[_Job]) -> list[_Outcome]:
        was_broken = self._file.broken
        done: list[_Outcome] = []
        tries = 0
        while jobs:
            tries += 1
            try:
                done += self._together(jobs)
                break
            except ChangedMeanwhileError as error:
                if tries >= MOST_TRIES:
                    done += _all_failed(jobs, self._translate(error))
                    break
            except OSError as error:
                growing = [job for job in jobs if job.grows]
                jobs = [job for job in jobs if not job.grows]
                if not is_full(error):
                    done += _all_failed([*growing, *jobs], error)
                    break
                done += _all_failed(growing, self._translate(error))
                if jobs and not growing and not self._reserve.give_up():
                    done += _all_failed(jobs, self._translate(error))
                    break
            except BaseException as error:
                done += _all_failed(jobs, error)
                break
        self._tell_broken(was_broken)
        return done

    def _together(self, jobs: list[_Job]) -> list[_Outcome]:
        """Run units of work in one transaction; none is done if this raises."""
        outcomes: list[_Outcome] = []
        answered: dict[tuple[str, str, str], tuple[Once, bytes]] = {}
        has_room = self._reserve.has_room()
        with self._file.transaction() as transaction:
            for job in jobs:
                try:
                    if job.grows and not has_room:
                        raise OSError(errno.ENOSPC, "the reserve is not whole")
                    outcomes.append((job, self._answer(transaction, job, answered), None))
                except BaseException as error:
                    outcomes.append((job, None, self._translate(error)))
        for once, response in answered.values():
            self._answers.keep(once, response)
        return outcomes

    def _answer(
        self, transaction: Transaction, job: _Job, answered: dict[tuple[str, str, str], tuple[Once, bytes]]
    ) -> bytes:
        once = job.once
        name = (once.principal, once.method, once.request_id)
        if once.request_id:
            before = answered.get(name)
            if before is not None and before[0].fingerprint == once.fingerprint:
                return before[1]
            if before is not None:
                raise request_id_reused(once.request_id)
            if (response := self._answers.find(once)) is not None:
                return response
        with transaction.unit():
            response = job.context.run(lambda: run_at_once(job.unit(transaction)))
        if once.request_id:
            answered[name] = (once, response)
        return response

    def _translate(self, error: BaseException) -> BaseException:
        return translated(error, self._file)


def _all_failed(jobs: list[_Job], error: BaseException) -> list[_Outcome]:
    return [(job, None, error) for job in jobs]


# On the event loop.


def _deliver(outcomes: list[_Outcome]) -> None:
    for job, response, error in outcomes:
        if job.future.cancelled():
            continue
        if error is not None:
            job.future.set_exception(error)
        else:
            assert response is not None
            job.future.set_result(response)
