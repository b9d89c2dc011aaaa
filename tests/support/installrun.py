"""One run of an install with its store and peers in memory: no server, no SQLite, and a clock that skips.

What is on disk is real: a small model in an import folder, and ``models_dir``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from modelkeep.exceptions import (
    DeadlineExceededException,
    UnavailableException,
    UnknownJobIDException,
    UnknownModelException,
)
from modelkeep_common.room import Room
from modelkeep_install.domain.jobs import Job, Progress, Source, SourceKind, Stage, State
from modelkeep_install.domain.plans import Hub, Plan, PlannedFile, Remote
from modelkeep_install.domain.ports import (
    DigestWork,
    DownloadNews,
    DownloadOrder,
    DownloadState,
    DownloadStatus,
    RecordFile,
    Removal,
    StoredModel,
)
from modelkeep_install.domain.roots import ModelRoots
from modelkeep_install.follow import ENDED, DownloadFollower
from modelkeep_install.run import Run, Tools
from modelkeep_install.steps import install
from support.faketime import now, run
from support.installs import small_lora

T = TypeVar("T")

KEY, URL = "ab" * 16, "https://models.example/style.safetensors"
REPOSITORY = "owner/style"


class Killed(BaseException):
    """What ends a run as a kill would: no handler sees it."""


@dataclass
class Faults:
    """What goes wrong with a peer's calls, by their names."""

    #: Calls that are not answered: as many times.
    silent: dict[str, int] = field(default_factory=dict)
    #: Calls that are done, and whose answers are lost.
    lost: dict[str, int] = field(default_factory=dict)
    #: Calls that are refused.
    refused: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def answer(self, name: str, work: Callable[[], T]) -> T:
        """The answer of a call, or what goes wrong with it."""
        self.calls.append(name)
        await asyncio.sleep(0)
        if self.silent.get(name):
            self.silent[name] -= 1
            raise UnavailableException("The peer does not answer.")
        if name in self.refused:
            raise self.refused[name]
        answer = work()
        if self.lost.get(name):
            self.lost[name] -= 1
            raise DeadlineExceededException("The peer did not answer in time.")
        return answer


class Records:
    """RecordService: a request id makes one record."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.made: dict[str, tuple[str, Any, Sequence[RecordFile]]] = {}
        #: Records of earlier installs, with their files.
        self.earlier: dict[str, tuple[StoredModel, list[RecordFile]]] = {}
        #: Paths that other records list, with their keys.
        self.listed: dict[str, str] = {}

    async def create(self, draft: Any, files: Sequence[RecordFile], request_id: str) -> StoredModel:
        def make() -> StoredModel:
            made, *_ = self.made.setdefault(KEY, (request_id, draft, files))
            assert made == request_id, "a second record was asked for"
            return StoredModel(KEY, "e", "", "", b"the record")

        return await self.faults.answer("create", make)

    async def get(self, key: str) -> StoredModel:
        def find() -> StoredModel:
            if key not in self.made:
                raise UnknownModelException(f"There is no model {key}.")
            return StoredModel(key, "e", "", "", b"the record")

        return await self.faults.answer("get", find)

    async def find(
        self, *, paths: Sequence[str] = (), root_id: str = "", source: str = "", hash: str = ""
    ) -> list[StoredModel]:
        return [
            model
            for model, files in self.earlier.values()
            if (not paths or model.path in paths)
            and source in ("", model.source)
            and hash in ("", model.original_hash, *(file.sha256 for file in files))
        ]

    async def spare(self, removal: Removal) -> Removal:
        """The removal without what :attr:`listed` names."""
        shared = tuple((path, (self.listed[path],)) for path in removal.paths if path in self.listed)
        paths = tuple(path for path in removal.paths if path not in self.listed)
        return await self.faults.answer("spare", lambda: replace(removal, paths=paths, shared=shared))

    async def files(self, key: str) -> list[RecordFile]:
        return self.earlier[key][1] if key in self.earlier else []


class Downloads:
    """DownloadService: a second after it was ordered a download runs, and one later it delivers."""

    def __init__(self, content: bytes) -> None:
        self.faults = Faults()
        self.content = content
        #: By the names of files, where a download brings several.
        self.contents: dict[str, bytes] = {}
        self.orders: dict[str, DownloadOrder] = {}
        self.statuses: dict[int, DownloadStatus] = {}
        self.started: list[tuple[str, str]] = []
        #: What a source at a hub comes to.
        self.resolved: Plan | None = None
        self.tokens: list[str] = []
        #: What a download does; each a second after the one before.
        self.plan = [DownloadState.RUNNING, DownloadState.COMPLETED]
        #: Counts what was begun or paused.
        self.plays = 0
        self._news: asyncio.Queue[DownloadNews] = asyncio.Queue()

    async def resolve(self, remote: Remote, access_token: str) -> Plan:
        def look_up() -> Plan:
            assert self.resolved is not None
            return self.resolved

        self.tokens.append(access_token)
        return await self.faults.answer("resolve", look_up)

    async def create(self, order: DownloadOrder) -> DownloadStatus:
        def make() -> DownloadStatus:
            known = list(self.orders)
            if order.request_id in self.orders:
                return self.statuses[known.index(order.request_id) + 1]
            self.orders[order.request_id] = order
            status = DownloadStatus(len(self.orders), DownloadState.ENQUEUED, labels=order.labels)
            self.statuses[status.id] = status
            self.play(status.id, self.plan)
            return status

        return await self.faults.answer("create", make)

    def play(self, download_id: int, plan: Sequence[DownloadState]) -> None:
        """Lets a download go through states, a second each."""
        self.plays += 1
        played = self.plays

        def step(state: DownloadState) -> None:
            if played == self.plays:  # else it was paused, or started again
                self.move(download_id, state)

        for second, state in enumerate(plan, 1):
            asyncio.get_running_loop().call_later(second, step, state)

    def move(self, download_id: int, state: DownloadState, **values: Any) -> None:
        """Lets a download change."""
        status = self.statuses.get(download_id)
        if status is None or status.state in ENDED:
            return
        size = len(self.content)
        if state is DownloadState.COMPLETED:
            values = {**self._deliver(download_id), "progress": Progress(size, size), **values}
        elif state is DownloadState.RUNNING:
            values = {"progress": Progress(size // 2, size), **values}
        self.statuses[download_id] = replace(status, state=state, **values)
        self._news.put_nowait(DownloadNews("", (self.statuses[download_id],)))

    def _deliver(self, download_id: int) -> dict[str, Any]:
        order = [*self.orders.values()][download_id - 1]
        folder, digest = Path(order.folder), hashlib.sha256(self.content).hexdigest()
        if not order.files:
            path = folder / (order.filename or "style.safetensors")
            path.write_bytes(self.content)
            return {"path": str(path), "sha256": digest}
        for file in order.files:
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.contents.get(path.name, self.content))
        digests = {
            file.path: hashlib.sha256((folder / file.path).read_bytes()).hexdigest() for file in order.files
        }
        return {"path": str(folder), "digests": digests}

    def forget(self) -> None:
        """Loses all downloads; another of the same number is somebody else's."""
        self.statuses.clear()

    async def get(self, download_id: int) -> DownloadStatus:
        def find() -> DownloadStatus:
            if download_id not in self.statuses:
                raise UnknownJobIDException(f"There is no download {download_id}.")
            return self.statuses[download_id]

        return await self.faults.answer("get", find)

    async def start(self, download_id: int, access_token: str, source_url: str) -> DownloadStatus:
        def begin() -> DownloadStatus:
            self.started.append((access_token, source_url))
            self.play(download_id, [DownloadState.RUNNING, DownloadState.COMPLETED])
            return self.statuses[download_id]

        return await self.faults.answer("start", begin)

    async def pause(self, download_id: int) -> None:
        def stop() -> None:
            self.plays += 1
            self.move(download_id, DownloadState.PAUSED)

        await self.faults.answer("pause", stop)

    async def cancel(self, download_id: int) -> None:
        await self.faults.answer("cancel", lambda: self.move(download_id, DownloadState.CANCELLED))

    async def prune(self) -> None:
        raise AssertionError("a run prunes nothing")

    async def watch(self, resume_token: str) -> AsyncIterator[DownloadNews]:
        while True:
            yield await self._news.get()


class Store:
    """The jobs in memory, and every write of them."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.writes: list[Job] = []
        self.record = b""
        self.digests: DigestWork | None = None
        #: Called around the n-th write of the store: does what shall happen there.
        self.at: dict[int, Callable[[], None]] = {}
        self.after = True
        self._written = asyncio.Event()

    async def save(self, job: Job, *, record: bytes = b"", digests: DigestWork | None = None) -> Job:
        act = self.at.get(len(self.writes) + 1, lambda: None)
        await asyncio.sleep(0)
        if not self.after:
            act()
        cancelled = job.cancel_requested or self.jobs[job.id].cancel_requested
        paused = self.jobs[job.id].pause_requested
        stored = replace(job, revision=job.revision + 1, cancel_requested=cancelled, pause_requested=paused)
        self.jobs[job.id] = stored
        self.writes.append(stored)
        self.record, self.digests = record or self.record, digests or self.digests
        self._written.set()
        self._written = asyncio.Event()
        if self.after:
            act()
        return stored

    async def until(self, condition: Callable[[Job], bool]) -> None:
        """Waits for a write of a job that is so."""
        while not condition(self.jobs[1]):
            await self._written.wait()

    @property
    def told(self) -> list[tuple[State, Stage]]:
        """The states and stages that were written, repetitions left out."""
        steps = [(job.state, job.stage) for job in self.writes]
        return [step for n, step in enumerate(steps) if n == 0 or steps[n - 1] != step]


class Bench:
    """A job, and all that its runs work with."""

    def __init__(self, folder: Path, kind: str, **fields: Any) -> None:
        self.imports, self.models = folder / "import", folder / "data" / "models"
        self.models.mkdir(parents=True, exist_ok=True)
        self.source = small_lora(self.imports / "style.safetensors")
        self.content = self.source.read_bytes()
        self.kind = kind
        self.store, self.records, self.downloads = Store(), Records(), Downloads(self.content)
        self.news: list[Job] = []
        self.roots = ModelRoots(self.models, "root", [self.imports], data_dir=folder / "data")
        url, remote = kind == "url", None
        source = Source(SourceKind.URL, URL) if url else Source(SourceKind.PATH, str(self.source))
        if kind == "hub":
            source, remote = Source(SourceKind.HUB, REPOSITORY), Remote(REPOSITORY)
            digest = hashlib.sha256(self.content).hexdigest()
            file = PlannedFile(URL, "style.safetensors", len(self.content), digest)
            self.downloads.resolved = Plan(Hub.HUGGING_FACE, REPOSITORY, "style", (file,), revision="c0ffee")
        self.store.jobs[1] = Job(
            id=1,
            uid="00000000-0000-4000-8000-000000000001",
            source=source,
            remote=remote,
            inplace=kind == "in place",
            move=kind == "move",
            key=KEY,
            create_time=0.0,
            local_path="" if url or remote else str(self.source),
            **{"overrides": {}, **fields},
        )

    @property
    def job(self) -> Job:
        """As it is stored."""
        return self.store.jobs[1]

    @contextlib.asynccontextmanager
    async def started(self, **secrets: str) -> AsyncIterator[tuple[Run, asyncio.Task[None]]]:
        """A run of the job as it is stored, as after a start of the service."""
        store: Any = self.store
        records: Any = self.records
        follower = DownloadFollower(self.downloads)
        tools = Tools(
            store,
            records,
            self.downloads,
            follower,
            self.roots,
            Room(self.models, 0),
            self.news.append,
            self.records.spare,
            now=now,
        )
        run = Run(self.job, tools, **secrets)
        task = asyncio.ensure_future(install(run))
        try:
            yield run, task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Killed):
                await task
            await follower.close()
            for pool in (tools.quick, tools.copies):
                pool.shutdown()

    async def finish(self, **secrets: str) -> Job:
        """Runs the job to its end."""
        async with self.started(**secrets) as (_, task):
            await task
        return self.job

    async def interrupt(self, how: str, at: int) -> None:
        """Runs the job, and does something to it at a write.

        Args:
            how: ``cancel`` or ``pause`` by a caller, ``drain`` of the service, or ``kill before`` or
                ``after`` the write.
            at: Number of the write, from 1.
        """
        self.store.after = how != "kill before"
        async with self.started() as (run, task):
            self.store.at = {at: lambda: self._do(how, run, task)}
            await asyncio.wait({task})
        self.store.at = {}

    def _do(self, how: str, run: Run, task: asyncio.Task[None]) -> None:
        if how == "cancel":
            self.cancel(run)
        elif how == "pause":
            self.pause(run)
        elif how == "drain":
            run.stopped.set()
            task.cancel()
        else:
            raise Killed

    def cancel(self, run: Run) -> None:
        """As CancelInstall does."""
        if not self.job.state.final:
            self.store.jobs[1] = replace(self.job, cancel_requested=True)
            run.request_cancel()

    def pause(self, run: Run) -> None:
        """As PauseInstall does."""
        if not self.job.state.final:
            self.store.jobs[1] = replace(self.job, pause_requested=True)
            run.hold()

    async def resume(self) -> Job:
        """As ResumeInstall does to a job that stands still; to its end."""
        if self.job.download_id and not self.job.staged_path:
            await self.downloads.start(self.job.download_id, "", "")
        self.store.jobs[1] = replace(self.job, pause_requested=False)
        return await self.finish()

    def check_completed(self) -> None:
        """COMPLETED: one record, one copy, the source as it was unless it was moved, and nothing else."""
        assert (self.job.state, self.job.error) == (State.COMPLETED, None)
        assert list(self.records.made) == [KEY]
        assert self.store.record == b"the record"
        assert os.path.lexists(self.source) == (self.kind != "move")
        if self.kind != "move":
            assert self.source.read_bytes() == self.content
        placed = self.models / KEY / "style.safetensors"
        assert self.job.local_path == str(self.source if self.kind == "in place" else placed)
        assert self.files() == ([] if self.kind == "in place" else [placed])
        assert all(path.read_bytes() == self.content for path in self.files())
        assert self.store.digests is not None
        assert self.store.digests.location == self.job.local_path

    def check_nothing_left(self) -> None:
        """No record and no file; the source is as it was."""
        assert (self.records.made, self.files()) == ({}, [])
        assert self.source.read_bytes() == self.content
        assert all(status.state in ENDED for status in self.downloads.statuses.values())

    def files(self) -> list[Path]:
        """Every file in models_dir."""
        return [path for path in self.models.rglob("*") if path.is_file()]


def on_bench(
    tmp_path: Path, kind: str, story: Callable[[Bench], Coroutine[Any, Any, None]], **job: Any
) -> None:
    """Plays a story of one job."""

    async def play() -> None:
        await story(Bench(tmp_path, kind, **job))

    run(play())
