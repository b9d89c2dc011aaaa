"""Random traffic on a queue, and a kill in its midst: what the handlers of each job hear makes sense."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from modelkeep.client import DownloadJobBase, DownloadJobRemoteSource, DownloadQueueService
from modelkeep.exceptions import WrongStateException
from modelkeep.supervisor import Suite
from support.httpserver import HttpServer, Resource
from support.originaldownloads import BODY, new_folder, quick_downloads

pytestmark = pytest.mark.timeout(120)

ENDS = ("completed", "error", "cancelled")


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    return quick_downloads()


class Ear:
    """A handler that keeps what it heard of each job, and sometimes takes its time."""

    def __init__(self, seed: int) -> None:
        self.heard: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self._random, self._lock = random.Random(seed), threading.Lock()

    def __call__(self, job: DownloadJobBase) -> None:
        done = job.bytes if isinstance(job, DownloadJobRemoteSource) else 0
        with self._lock:
            self.heard[job.id].append((job.status.value, done))
            pause = self._random.random() * 0.2 if self._random.random() < 0.1 else 0
        time.sleep(pause)


def disturb(queue: DownloadQueueService, job: DownloadJobBase, chance: random.Random) -> None:
    """Do one thing to a job, or nothing."""
    what = chance.random()
    with contextlib.suppress(WrongStateException):
        if what < 0.3:
            queue.pause_job(job)
        elif what < 0.7:
            queue.start_job(job)
        elif what < 0.73:
            queue.cancel_job(job)
        elif what < 0.76:
            queue.fail_job(job, ValueError("not this one"))
        elif what < 0.8:
            job.priority = chance.randint(1, 9)
        else:
            time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_each_jobs_handlers_hear_of_one_beginning_and_one_end_whatever_happens(
    suite: Suite, web: HttpServer, seed: int
) -> None:
    chance, ear, models = random.Random(seed), Ear(seed), new_folder(suite)
    with DownloadQueueService([ear], max_parallel_dl=3, data_dir=suite.data_dir, quiet=True) as queue:
        jobs = [queue.create_download_job(url, models) for url in addresses(web, chance)]
        for kill in (False, True, False):
            if kill:
                suite.kill("download")
                suite.restart("download")
            until = time.monotonic() + 2
            while time.monotonic() < until:
                disturb(queue, chance.choice(jobs), chance)
        queue.start_all_jobs()
        queue.join(timeout=60)
    for job in jobs:
        states = [state for state, _ in ear.heard[job.id]]
        assert states[0] == "enqueued", (seed, job.id, states)
        assert states[-1] == job.status, (seed, job.id, states)
        assert states.count("enqueued") == 1, (seed, job.id, states)
        assert sum(state in ENDS for state in states) == 1, (seed, job.id, states)
    delivered = {path.name for path in Path(models).iterdir()}
    assert delivered == {job.path.name for job in jobs if job.path and job.status == "completed"}


def addresses(web: HttpServer, chance: random.Random) -> list[str]:
    """Files of several speeds, and one that is not there."""
    rates = [chance.choice((200_000, 400_000, None)) for _ in range(11)]
    served = [
        web.put(f"/{place}.bin", Resource(BODY[:400_000], rate=rate)) for place, rate in enumerate(rates)
    ]
    return [*served, web.url("/nowhere")]
