"""All scans: made, run two at a time, found again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from modelkeep.backoff import Backoff
from modelkeep.exceptions import FieldInvalidException, FieldViolation, ModelkeepError
from modelkeep_common.auth import OWNER

from ..domain.requests import Caller
from ..domain.system_errors import reading
from ..installer import MAX_LABELS
from .course import Cancelled
from .found import Finding, FindingKind, Scan, ScanKind
from .looking import Look, Tools

_log = logging.getLogger(__name__)

#: Scans that run at once.
_SLOTS = 2
#: Between two tries of what a fault interrupted, in seconds; and how many there are.
_FIRST_RETRY_S, _LAST_RETRY_S, _TRIES = 0.2, 10.0, 6


class Scanner:
    """All that InstallService does with scans, without the wire.

    Args:
        tools: What scans work with.
        sync_at_start: Whether a start begins one of all folders.
    """

    def __init__(self, tools: Tools, *, sync_at_start: bool = False) -> None:
        self._tools = tools
        self._sync_at_start = sync_at_start
        self._slots = asyncio.Semaphore(_SLOTS)
        self._looks: dict[int, Look] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Set, and replaced, whenever a scan ends.
        self._changed = asyncio.Event()
        self._stopping = False

    # ---- life ----------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Goes on with every scan that has not ended, and begins the one of a start; waits for neither."""
        for scan in await self._tools.store.unfinished():
            self._launch(scan)
        if self._sync_at_start:
            self._keep(asyncio.create_task(self._begin_sync(), name="sync-at-start"))

    async def stop(self) -> None:
        """Stops every scan where it is; the next start begins it anew."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake()

    async def _begin_sync(self) -> None:
        if any(look.scan.at_start for look in self._looks.values()):
            return  # an earlier start's has yet to end
        scan = Scan(0, ScanKind.SYNC, self._tools.now(), at_start=True)
        try:
            self._launch(await self._tools.store.create(scan, Caller()))
        except ModelkeepError as error:
            _log.warning("the folders are not synced at this start: %s", error)

    # ---- scans ---------------------------------------------------------------------------------------
    async def scan_directory(
        self, path: str, caller: Caller, *, install: bool, validate_only: bool, labels: Mapping[str, str]
    ) -> Scan:
        """Makes a scan of a folder.

        Raises:
            FieldInvalidException, ForbiddenPathException, SourceNotFoundException: The folder is bad.
            RequestIdReusedException: The request id was used for another request.
        """
        roots = self._tools.roots

        def look() -> Path:
            top = roots.requested(path, "path", caller.principal)
            with reading(top):
                is_folder = stat.S_ISDIR(top.stat().st_mode)
            if not is_folder:
                raise FieldInvalidException(
                    f"{path} is a file: a scan takes a folder.",
                    violations=[FieldViolation("path", "must be a folder; ImportModel takes a file")],
                    remedy="Scan its folder, or install the file.",
                )
            real = top.resolve()
            return real if real.is_relative_to(roots.models_dir) else top

        top = await asyncio.to_thread(look)
        scan = Scan(
            0,
            ScanKind.DIRECTORY,
            self._tools.now(),
            path=str(top),
            install=install,
            validate_only=validate_only,
            labels=labels,
            by_owner=caller.principal.has(OWNER),
        )
        return await self._make(scan, caller)

    async def sync(
        self,
        caller: Caller,
        *,
        validate_only: bool,
        remove_orphans: bool,
        force: bool,
        labels: Mapping[str, str],
    ) -> Scan:
        """Makes a scan of models_dir and the folders that are imported by themselves.

        Raises:
            RequestIdReusedException: The request id was used for another request.
        """
        scan = Scan(
            0,
            ScanKind.SYNC,
            self._tools.now(),
            validate_only=validate_only,
            remove_orphans=remove_orphans,
            force=force,
            labels=labels,
        )
        return await self._make(scan, caller)

    async def get(self, scan_id: int) -> Scan:
        """A scan as of now; UnknownJobIDException if there is none."""
        return await self._as_of_now(await self._tools.store.get(scan_id))

    async def page(self, *, before: int | None, limit: int) -> list[Scan]:
        """At most ``limit`` scans as of now, newest first."""
        page = await self._tools.store.page(before=before, limit=limit)
        return [await self._as_of_now(scan) for scan in page]

    async def findings(
        self, scan_id: int, kinds: Collection[FindingKind], *, after: str, limit: int
    ) -> list[Finding]:
        """At most ``limit`` findings of a scan, in the order of their paths; UnknownJobIDException."""
        return await self._tools.store.findings(scan_id, kinds, after=after, limit=limit)

    async def wait(self, scan_id: int, timeout_s: float) -> Scan:
        """The scan when it has ended, or at the time-out; UnknownJobIDException."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    changed = self._changed
                    if (await self.get(scan_id)).state.final or self._stopping:
                        break
                    await changed.wait()
        return await self.get(scan_id)

    async def cancel(self, scan_id: int) -> Scan:
        """Asks a scan to end; UnknownJobIDException, WrongStateException."""
        scan = await self._tools.store.request_cancel(scan_id)
        if scan_id in self._looks:
            self._looks[scan_id].course.cancelled.set()
        elif not scan.state.final:
            self._launch(scan)  # it had stopped by a defect
        return await self._as_of_now(scan)

    # ---- inside --------------------------------------------------------------------------------------
    async def _make(self, scan: Scan, caller: Caller) -> Scan:
        if len(scan.labels) > MAX_LABELS:
            violation = FieldViolation("labels", f"may have {MAX_LABELS} pairs")
            raise FieldInvalidException("There are too many labels.", violations=[violation])
        made = await self._tools.store.create(scan, caller)
        if not made.state.final and made.id not in self._looks:
            self._launch(made)
        return await self._as_of_now(made)

    def _launch(self, scan: Scan) -> None:
        if self._stopping:
            return
        look = self._looks[scan.id] = Look(scan, self._tools)
        self._keep(asyncio.create_task(self._run(look), name=f"scan-{scan.id}"))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, look: Look) -> None:
        try:
            with contextlib.suppress(Cancelled):  # it ends all the same, and so needs no slot
                await look.course.unless_cancelled(self._slots.acquire())
                try:
                    return await self._to_its_end(look)
                finally:
                    self._slots.release()
            await self._to_its_end(look)
        finally:
            look.course.close()
            self._looks.pop(look.scan.id, None)
            self._wake()

    async def _to_its_end(self, look: Look) -> None:
        waits, tries = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S), 0
        fault: Exception | None = None
        while not look.scan.state.final:
            try:
                if fault is not None and tries >= _TRIES:
                    await look.fail(fault)
                else:
                    await look.look()
            except Exception as error:
                fault, tries = error, tries + 1
                _log.exception("scan %s stopped; tried again soon", look.scan.id)
                await asyncio.sleep(waits.next())
                look.scan = await self._stored(look.scan)

    async def _stored(self, scan: Scan) -> Scan:
        try:
            return await self._tools.store.get(scan.id)
        except Exception as error:
            _log.info("the store does not give scan %s yet: %s", scan.id, error)
            return scan

    async def _as_of_now(self, scan: Scan) -> Scan:
        look = self._looks.get(scan.id)
        if look is None or scan.state.final:
            return scan
        return replace(scan, counts=look.counts, error=look.course.waiting or await look.installs.paused())

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
