"""The installs that a scan makes: the one way into the records."""

from __future__ import annotations

import contextlib

from modelkeep.exceptions import (
    CancelledException,
    InstallInProgressException,
    UnknownJobIDException,
    WrongStateException,
)
from modelkeep_common.auth import Principal

from ..domain.jobs import Job, JobError, State
from ..domain.requests import Caller, ImportRequest, JobFilter
from ..installer import Installer
from .course import Course
from .found import LABEL, Finding, FindingKind, Scan, failure

_PAGE = 1000
#: A wait for an install is begun anew so often, in seconds.
_WAIT_S = 30.0


class Installs:
    """The installs of one scan, by the path that each registers.

    Args:
        scan: The scan.
        principal: Whose wish they are.
        course: What it waits with.
        installer: Makes them.
    """

    def __init__(self, scan: Scan, principal: Principal, course: Course, installer: Installer) -> None:
        self._scan = scan
        self._principal = principal
        self._course = course
        self._installer = installer
        self._ids: dict[str, int] = {}
        self._awaited: set[int] = set()

    async def find(self) -> None:
        """Finds those that were made before a restart."""
        self._ids = {job.source.text: job.id for job in reversed(await self._all())}

    def has(self, path: str) -> bool:
        """Whether there is one for a path."""
        return path in self._ids

    def drop(self, path: str) -> None:
        """Another one may be begun for a path."""
        self._ids.pop(path, None)

    async def rehearse(self, path: str) -> Job:
        """What an install of a path would come to; see ``Installer.rehearse``."""
        return (await self._installer.rehearse(self._request(path), self._caller()))[0]

    async def begin(self, path: str) -> None:
        """Begins one; if another's is under way, waits for its end: then the path is to be looked at anew.

        Raises:
            ModelkeepError: As ``Installer.import_model``.
        """
        try:
            request = self._request(path)
            job, _ = await self._course.ask(lambda: self._installer.import_model(request, self._caller()))
        except InstallInProgressException as error:
            await self._await(int(error.metadata["id"]))
        else:
            self._ids[path] = job.id

    async def ended(self, path: str) -> Finding | None:
        """What the install of a path has come to, once it has ended; None if that was forgotten."""
        job = await self._await(self._ids[path])
        if job is None:
            self.drop(path)
            return None
        return _finding_of(job)

    async def cancel(self) -> None:
        """Cancels those under way, and waits until they have ended."""
        await self._installer.submitted()  # what was just begun may not be stored yet
        under_way = [job.id for job in await self._all() if not job.state.final]
        for job_id in under_way:
            with contextlib.suppress(WrongStateException, UnknownJobIDException):
                await self._installer.cancel(job_id)
        for job_id in under_way:
            with contextlib.suppress(UnknownJobIDException):
                while not (await self._installer.get(job_id))[0].state.final:
                    await self._installer.wait([job_id], _WAIT_S)

    async def ended_well(self) -> list[Finding]:
        """What those that are not forgotten have registered."""
        found = [_finding_of(job) for job in await self._all() if job.state is State.COMPLETED]
        return [finding for finding in found if finding.kind is FindingKind.NEW]

    async def forget(self) -> None:
        """Forgets those that have ended; of those that failed, only what another one was quicker with."""
        jobs = [job for job in await self._all() if job.state.final and not _tells_why(job)]
        for first in range(0, len(jobs), _PAGE):
            with contextlib.suppress(UnknownJobIDException):  # somebody else forgets them as well
                await self._installer.prune(ids=[job.id for job in jobs[first : first + _PAGE]])

    async def paused(self) -> JobError | None:
        """Why it waits for somebody: an install that it waits for is paused."""
        for job_id in sorted(self._awaited):
            with contextlib.suppress(UnknownJobIDException):
                job = (await self._installer.get(job_id))[0]
                if job.state is State.PAUSED:
                    return JobError.of(_paused(job))
        return None

    async def _await(self, job_id: int) -> Job | None:
        """The job when it has ended; None if it is not there any more."""
        self._awaited.add(job_id)
        try:
            return await self._end_of(job_id)
        finally:
            self._awaited.discard(job_id)

    async def _end_of(self, job_id: int) -> Job | None:
        while True:
            try:
                waited = await self._course.unless_cancelled(self._installer.wait([job_id], _WAIT_S))
            except UnknownJobIDException:
                return None
            if not waited:
                return None
            [(job, _)] = waited
            if job.state.final:
                return job

    async def _all(self) -> list[Job]:
        """All jobs that have the scan's label, newest first."""
        found, before = list[Job](), None
        while True:
            wanted = JobFilter(labels={LABEL: str(self._scan.id)})
            page, _ = await self._installer.page(wanted, before=before, limit=_PAGE)
            found += [job for job, _ in page]
            if len(page) < _PAGE:
                return found
            before = found[-1].id

    def _request(self, path: str) -> ImportRequest:
        scan = self._scan
        labels = {**scan.labels, LABEL: str(scan.id)}
        return ImportRequest(local_path=path, inplace=not scan.install, labels=labels)

    def _caller(self) -> Caller:
        return Caller(principal=self._principal)


def _tells_why(job: Job) -> bool:
    return job.state is State.ERROR and job.error is not None and job.error.reason != "DUPLICATE_PATH"


def _paused(job: Job) -> WrongStateException:
    return WrongStateException(
        f"The scan waits for install {job.id} of {job.source.text}, which is paused.",
        metadata={"id": str(job.id), "state": job.state, "allowed": "waiting,running"},
        remedy=f"Let install {job.id} go on (ResumeInstall), or cancel it (CancelInstall).",
    )


def _finding_of(job: Job) -> Finding:
    path = job.source.text
    if job.state is State.COMPLETED and not job.known_key:
        return Finding(path, FindingKind.NEW, job.key, None, job.same_content, job.missing_content)
    if job.state is State.COMPLETED:
        return Finding(path, FindingKind.KNOWN, job.known_key)
    if job.state is State.CANCELLED:
        return failure(path, CancelledException("The install of this path was cancelled."))
    return failure(path, job.error or JobError.of(RuntimeError("no error given")))
