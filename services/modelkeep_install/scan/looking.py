"""One scan under way: what it does from its begin to its end; every step may be repeated after a restart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from modelkeep.exceptions import (
    EtagMismatchException,
    ForbiddenPathException,
    ModelkeepError,
    UnknownModelException,
)
from modelkeep_common.auth import NOBODY, THE_OWNER
from modelkeep_common.data_folder import OWN_FOLDERS

from ..domain.jobs import JobError
from ..domain.ownership import owned_by
from ..domain.ports import JobStore, RecordPort, StoredModel
from ..domain.requests import FilePolicy
from ..domain.roots import ModelRoots
from ..domain.system_errors import reading
from ..installer import Installer
from ..presence import Presence, is_there
from .course import Cancelled, Course
from .found import Counts, Finding, FindingKind, Scan, ScanKind, ScanState, failure, shown
from .installs import Installs
from .known import Known, Seen, is_as_recorded, is_beneath, known_of
from .orphans import away, elsewhere
from .store import ScanStore
from .walking import Found, Identity, Trouble, Walk, identity_of

#: What is found is told in parts of so many, or of so many seconds.
_BATCH, _BATCH_S = 512, 0.25
#: Models that are looked into at once.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Tools:
    """What all scans work with."""

    store: ScanStore
    installer: Installer
    jobs: JobStore
    records: RecordPort
    presence: Presence
    roots: ModelRoots
    #: The suite's own.
    data_dir: Path
    autoimport: Sequence[Path] = ()
    now: Callable[[], float] = time.time


@dataclass(slots=True)
class _Batch:
    findings: list[Finding] = field(default_factory=list)
    candidates: list[Found] = field(default_factory=list)
    visited: list[str] = field(default_factory=list)
    done: bool = False


class Look:
    """One scan under way.

    Attributes:
        scan: As it was stored last.
        counts: As of now.
        course: What it waits with, and how it is stopped.
        installs: What it has registered with.
    """

    def __init__(self, scan: Scan, tools: Tools) -> None:
        self.scan = scan
        self.counts = scan.counts
        self.course = Course(f"scan-{scan.id}", tools.now)
        self._tools = tools
        self._principal = THE_OWNER if scan.by_owner or scan.kind is ScanKind.SYNC else NOBODY
        self.installs = Installs(scan, self._principal, self.course, tools.installer)
        self._known = Known()
        self._registered: set[str] = set()
        self._would_be: set[tuple[int, int]] = set()
        self._visited: set[str] = set()
        if scan.cancel_requested:
            self.course.cancelled.set()

    # ---- its course ----------------------------------------------------------------------------------
    async def look(self) -> None:
        """Takes the scan to its end.

        Raises:
            CancelledError: It stops where it is, for the next start.
            Exception: A fault of the store or a defect; it may be begun again.
        """
        try:
            await self._begin()
            problem = await self._go_through()
        except Cancelled:
            await self.installs.cancel()
            await self._end(ScanState.CANCELLED)
        else:
            error = None if problem is None else JobError.of(problem)
            await self._end(ScanState.COMPLETED if error is None else ScanState.ERROR, error)

    async def fail(self, error: BaseException) -> None:
        """Ends it by a fault that does not go away."""
        await self._end(ScanState.ERROR, JobError.of(error))

    async def _begin(self) -> None:
        self.course.check()
        begun = self.scan.start_time or self._tools.now()
        running = replace(self.scan, state=ScanState.RUNNING, attempt=self.scan.attempt + 1, start_time=begun)
        self.scan = await self._tools.store.save(running)
        before = await self._tools.store.begin_anew(self.scan.id)
        self.counts = Counts()
        for finding in before:
            self._count(finding)
        self._registered = {finding.path for finding in before}
        await self.installs.find()

    async def _go_through(self) -> ModelkeepError | None:
        """Looks at everything; answers with why it was not all done."""
        tools = self._tools
        tops = [Path(self.scan.path)]
        if self.scan.kind is ScanKind.SYNC:
            tops = [tools.roots.models_dir, *tools.autoimport]
        else:
            try:
                await self.course.in_thread(lambda: self._look_at_top(tops[0]))
            except ModelkeepError as error:
                return error
        models = await self.course.ask(tools.records.all)
        seen = await tools.store.seen(tops)
        self._known, gone = await self.course.in_thread(lambda: known_of(models, tools.roots, seen))
        guarded = await self.course.in_thread(self._guarded)
        walk = Walk(
            tops,
            check=self._check_path,
            guarded=guarded,
            is_model=self._known.by_identity.__contains__,
            stop=lambda: self.course.stopped or self.course.cancelled.is_set(),
        )
        twins = await self._walk(walk)
        await self._examine_all(twins)
        await self._forget_seen(tops)
        if self.scan.kind is not ScanKind.SYNC:
            return None
        if not self.scan.validate_only:
            await self.course.ask(tools.presence.check)
        stays = await self._tell_orphans(gone, len(self._known.keys) + len(gone))
        return stays or elsewhere(models, tools.roots)

    async def _end(self, state: ScanState, error: JobError | None = None) -> None:
        ended = await self.installs.ended_well()
        await self._tell([finding for finding in ended if finding.path not in self._registered])
        await self.installs.forget()
        over = replace(self.scan, state=state, error=error, end_time=self._tools.now(), counts=self.counts)
        self.scan = await self._tools.store.end(over)
        self.counts = self.scan.counts

    # ---- what is found -------------------------------------------------------------------------------
    async def _walk(self, walk: Walk) -> list[Found]:
        """Goes through the folders; answers with what was found by another name before."""
        items, twins = iter(walk), list[Found]()
        while True:
            batch = await self.course.in_thread(lambda: self._batch(items))
            self._visited.update(batch.visited)
            self.counts = replace(self.counts, folders=walk.folders, files=walk.files)
            await self._tell(batch.findings)
            twins += [found for found in batch.candidates if found.is_twin]
            await self._examine_all([found for found in batch.candidates if not found.is_twin])
            self.course.check()
            if batch.done:
                return twins

    def _batch(self, items: Iterator[Found | Trouble]) -> _Batch:
        batch, until = _Batch(), time.monotonic() + _BATCH_S
        for item in items:
            batch.visited.append(item.path)
            if isinstance(item, Trouble):
                batch.findings.append(failure(item.path, item.error))
            elif item.path not in self._registered:
                key = self._known.as_before(item, copies=self.scan.install)
                if key and not self.installs.has(item.path):
                    batch.findings.append(Finding(item.path, FindingKind.KNOWN, key))
                else:
                    batch.candidates.append(item)
            if len(batch.visited) >= _BATCH or time.monotonic() > until:
                return batch
        batch.done = True
        return batch

    async def _examine_all(self, candidates: Sequence[Found]) -> None:
        left = iter(candidates)

        async def work() -> None:
            for found in left:
                finding, seen = await self._examine(found)
                if seen is not None:
                    await self._tools.store.change_seen({found.path: seen})
                if finding is not None:
                    await self._tell([finding])

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(candidates))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _examine(self, found: Found) -> tuple[Finding | None, Seen | None]:
        """What is at a path, and what to remember of it; registers what is new."""
        told = await self._once(found)
        if told[0] is not None and told[0].error is not None and told[0].error.reason == "DUPLICATE_PATH":
            # an install beside this one may have been quicker, between two looks
            self.installs.drop(found.path)
            told = await self._once(found)
        return told

    async def _once(self, found: Found) -> tuple[Finding | None, Seen | None]:
        tools, path = self._tools, found.path
        while not self.installs.has(path):
            key = self._known.by_identity.get(found.identity, "")
            if key and is_as_recorded(found, await self.course.ask(partial(tools.records.files, key))):
                return Finding(path, FindingKind.KNOWN, key), Seen(found.facts, key)
            if found.identity in self._would_be or await self._is_anothers(path):
                return None, None
            try:
                told = await self.course.ask(lambda: self.installs.rehearse(path))
            except ModelkeepError as error:
                return failure(path, error), None
            same, missing = told.same_content, told.missing_content
            # one that was touched is taken through an install, by which its record gets the new times
            if told.known_key and (self.scan.validate_only or not key):
                seen = Seen(found.facts, told.known_key, self.scan.install)
                return Finding(path, FindingKind.KNOWN, told.known_key), seen
            if missing and not self.scan.remove_orphans:
                return Finding(path, FindingKind.MOVED, "", None, same, missing), None
            if self.scan.validate_only:
                self._would_be.add(found.identity)
                return Finding(path, FindingKind.NEW, "", None, same, missing), None
            try:
                await self.installs.begin(path)
            except ModelkeepError as error:
                return failure(path, error), None
        finding = await self.installs.ended(path)
        if finding is None:  # somebody else has pruned it: what it made is known by now
            return await self._once(found)
        if not finding.key:
            return finding, None
        self._known.by_identity[found.identity] = finding.key
        return finding, Seen(found.facts, finding.key, self.scan.install)

    async def _is_anothers(self, path: str) -> bool:
        """Whether it is being installed, so that it gets a record, or being deleted."""
        roots, jobs = self._tools.roots, self._tools.jobs
        home = await self.course.in_thread(lambda: owned_by(Path(path), roots))
        if home and home in {job.key for job in await jobs.unfinished()}:
            return True
        going = [gone for removal in await jobs.removals() for gone in removal.paths]
        return any(gone == path or is_beneath(gone, Path(path)) for gone in going)

    async def _forget_seen(self, tops: Sequence[Path]) -> None:
        gone = [path for path in self._known.seen if path not in self._visited]
        await self._tools.store.change_seen({}, gone)

    # ---- orphans -------------------------------------------------------------------------------------
    async def _tell_orphans(self, gone: Sequence[StoredModel], total: int) -> ModelkeepError | None:
        roots, scan = self._tools.roots, self.scan
        kept: dict[str, ModelkeepError] = {}
        if scan.remove_orphans and not scan.force:
            kept.update(await self.course.in_thread(lambda: away(gone, total, roots)))
        for model in gone:
            self.course.check()
            finding = Finding(shown(model.path), FindingKind.ORPHAN, model.key)
            if (stays := kept.get(model.key)) is not None:
                await self._tell([replace(finding, error=JobError.of(stays))])
            elif told := await self._orphan(finding, model):
                await self._tell([told])
        return next(iter(kept.values()), None)

    async def _orphan(self, finding: Finding, model: StoredModel) -> Finding | None:
        """What becomes of a record without files; None if it has some, or is gone."""
        location = self._tools.roots.locate(model.path, model.root_id)
        while True:
            try:
                now = await self.course.ask(lambda: self._tools.records.get(model.key))
                there = await self.course.in_thread(lambda: is_there(location))
                if there is not False or (now.path, now.root_id) != (model.path, model.root_id):
                    return None
                if self.scan.validate_only or not self.scan.remove_orphans:
                    return finding
                remove = self._tools.installer.uninstall
                await self.course.ask(partial(remove, model.key, FilePolicy.KEEP, now.etag))
                return replace(finding, removed=True)
            except EtagMismatchException:
                continue  # as by its mark: look at it again
            except UnknownModelException:
                return None
            except ModelkeepError as error:  # a lease holds it
                return replace(finding, error=JobError.of(error))

    # ---- its means -----------------------------------------------------------------------------------
    def _count(self, finding: Finding) -> None:
        self.counts = self.counts.plus(finding)

    async def _tell(self, findings: Sequence[Finding]) -> None:
        await self._tools.store.add_findings(self.scan.id, findings)
        for finding in findings:
            self._count(finding)
            if finding.kind is FindingKind.NEW and finding.key:
                self._registered.add(finding.path)

    def _look_at_top(self, top: Path) -> None:
        self._check_path(top)
        with reading(top):
            os.stat(top)

    def _guarded(self) -> list[Identity]:
        """The suite's own folders."""
        data_dir = self._tools.data_dir
        folders = (data_dir, *(data_dir / name for name in OWN_FOLDERS))
        return [identity_of(folder) for folder in folders if folder.is_dir()]

    def _check_path(self, path: Path) -> None:
        roots = self._tools.roots
        roots.requested(str(path), "path", self._principal)
        if roots.is_staged(path):
            raise ForbiddenPathException(f"{path} is staged: its job owns it.", metadata={"path": str(path)})
