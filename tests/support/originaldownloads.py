"""What tests of the original's download queue share: a handler that keeps what it saw, and a tidy client."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from modelkeep.client import Client, DownloadJobBase, DownloadJobRemoteSource
from modelkeep.supervisor import Suite
from support.httpserver import pattern

BODY: Final = pattern(1_000_000)
#: No text, which would be taken for what was sent in the place of a file.
SMALL: Final = b"\0small\xff"
#: Bytes a second: a second for the whole body.
SLOW: Final = len(BODY)


class Seen:
    """A handler that keeps what it saw, and lets a test wait for it."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.bytes: list[tuple[int, int]] = []
        self._news = threading.Condition()

    def __call__(self, job: DownloadJobBase) -> None:
        with self._news:
            self.states.append(job.status.value)
            if isinstance(job, DownloadJobRemoteSource):
                self.bytes.append((job.bytes, job.total_bytes))
            self._news.notify_all()

    def until(self, state: str) -> None:
        """Wait until the state is this one."""
        self._wait(lambda: self.states[-1:] == [state])

    def until_bytes_come(self) -> None:
        """Wait until some bytes are there."""
        self._wait(lambda: any(done for done, _ in self.bytes))

    def _wait(self, what: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(what, timeout=20), self.states

    @property
    def order(self) -> list[str]:
        """The states, each run of equal ones once."""
        return [state for state, _ in itertools.groupby(self.states)]


def quick_downloads(at_once: int = 5) -> dict[str, Any]:
    """Options of a suite that does nothing but download, and does not try for long."""
    settings = {"MAX_PARALLEL_DOWNLOADS": str(at_once), "MAX_ATTEMPTS": "2", "RETRY_BASE_S": "0.05"}
    env = {f"MODELKEEP_DOWNLOAD_{name}": value for name, value in settings.items()}
    return {"services": ("download",), "env": env}


@contextlib.contextmanager
def tidy_client(suite: Suite) -> Iterator[Client]:
    """A client; at the end no job of any queue is left."""
    with Client(data_dir=suite.data_dir) as opened:
        yield opened
        every = opened.create_download_queue(None)
        for job in every.list_jobs():
            if not job.ended:
                every.cancel_job(job)
        every.join(timeout=20)
        every.prune_jobs()


def new_folder(suite: Suite) -> Path:
    """A folder that may be downloaded to."""
    return Path(tempfile.mkdtemp(dir=suite.data_dir / "downloads"))
