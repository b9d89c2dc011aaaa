"""Folders that are looked through for models, and records that are brought into line with them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelkeep.client._transport import Peer
from modelkeep.exceptions import CancelledException, DeadlineExceededException, ModelkeepError
from modelkeep.install.v1 import scan_pb2 as pb
from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceStub
from modelkeep.messages import made
from modelkeep.rpc import exception_of
from modelkeep.values import absolute, seconds

if TYPE_CHECKING:
    from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceAsyncStub

#: One call waits so long, in seconds.
_WAIT_S: Final = 20.0


class FindingKind(StrEnum):
    """What a scan found at a path."""

    NEW = "new"
    KNOWN = "known"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"
    MOVED = "moved"
    ORPHAN = "orphan"
    FAILED = "failed"


class ModelScan:
    """A scan as it was told last.

    Attributes:
        message: The wire's resource.
    """

    def __init__(self, message: pb.Scan) -> None:
        self.message = message

    @property
    def id(self) -> int:
        """Its number."""
        return self.message.id

    @property
    def state(self) -> str:
        """Where it stands: waiting, running, completed, error, cancelled."""
        return pb.ScanState.Name(self.message.state).removeprefix("SCAN_STATE_").lower()

    @property
    def path(self) -> Path | None:
        """The folder that is scanned; None for a sync."""
        return Path(self.message.path) if self.message.path else None

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.message.ended

    @property
    def counts(self) -> Mapping[str, int]:
        """How many findings of each kind there are, and how many `folder`, `file` and `removed`."""
        return {
            field.name.removesuffix("_count"): getattr(self.message.counts, field.name)
            for field in pb.ScanCounts.DESCRIPTOR.fields
        }

    @property
    def exception(self) -> ModelkeepError | None:
        """What it failed with, or waits with; None without one."""
        return exception_of(self.message.error) if self.message.HasField("error") else None

    @property
    def job_ended(self) -> float | None:
        """When it ended, in seconds since the epoch."""
        return seconds(self.message.end_time)

    @property
    def job_started(self) -> float | None:
        """When it first ran, in seconds since the epoch."""
        return seconds(self.message.start_time)

    def __repr__(self) -> str:
        return f"<ModelScan {self.id} {self.state} {self.path or 'sync'}>"


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """One thing that a scan found.

    Attributes:
        path: Where; bytes that are no UTF-8 are written as ``\\xNN``.
        kind: What.
        key: Of the record; "" where there is none.
        exception: Why it was not registered, could not be looked at, or was not removed.
        same_content: Keys of other models with the same content.
        missing_content: Keys of models with the same content whose files are gone.
        removed: Whether the orphan record was removed.
        message: The wire's resource.
    """

    path: str
    kind: FindingKind
    key: str
    exception: ModelkeepError | None
    same_content: tuple[str, ...]
    missing_content: tuple[str, ...]
    removed: bool
    message: pb.ScanFinding


class ModelScans:
    """The part of `AsyncModelInstall` that scans folders.

    Args:
        peer: The install service.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @property
    def _stub(self) -> InstallServiceAsyncStub:
        return InstallServiceStub(self._peer.channel)

    async def scan_directory(self, scan_dir: str | os.PathLike[str], install: bool = False) -> list[str]:
        """Look through a folder for new models, and register or install them; answers with their keys.

        Args:
            scan_dir: The folder; a relative path is taken from the current folder.
            install: Copy them into models_dir; else they are registered where they lie.

        Raises:
            SourceNotFoundException: There is no such folder.
            ForbiddenPathException: It is outside the folders that may be imported from.
            CancelledException: Somebody cancelled the scan.
        """
        scan = await self._done(await self.scan(scan_dir, install))
        return [one.key async for one in self._findings(scan, [FindingKind.NEW]) if one.key]

    async def sync_to_config(self, *, force: bool = False) -> None:
        """Bring the records into line with models_dir and the autoimport folders.

        New models are registered, and records whose files are gone are removed; no file is. Records stay
        where a disk may be away.

        Args:
            force: Remove records also where a disk may be away.

        Raises:
            ManyMissingException: Records were not removed, since a disk may be away; all else is done.
            CancelledException: Somebody cancelled it.
        """
        await self._done(await self.sync(remove_orphans=True, force=force))

    async def scan(
        self,
        scan_dir: str | os.PathLike[str],
        install: bool = False,
        *,
        validate_only: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> ModelScan:
        """Begin a scan of a folder; answers at once.

        Args:
            scan_dir: The folder; a relative path is taken from the current folder.
            install: Copy what is new into models_dir; else it is registered where it lies.
            validate_only: Only tell what is there.
            labels: For the caller's own use; the models get them too.

        Raises:
            SourceNotFoundException: There is no such folder.
            ForbiddenPathException: It is outside the folders that may be imported from.
        """
        request = made(
            pb.ScanDirectoryRequest,
            path=str(absolute(scan_dir)),
            install=install,
            validate_only=validate_only,
            labels=labels,
        )
        return ModelScan((await self._peer.call(self._stub.ScanDirectory, request)).scan)

    async def sync(
        self,
        *,
        validate_only: bool = False,
        remove_orphans: bool = False,
        force: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> ModelScan:
        """Begin a scan of models_dir and the autoimport folders; answers at once.

        Args:
            validate_only: Only tell what would happen.
            remove_orphans: Remove records whose files are gone.
            force: Also where a disk may be away.
            labels: For the caller's own use; the models get them too.
        """
        request = made(
            pb.SyncModelsRequest,
            validate_only=validate_only,
            remove_orphans=remove_orphans,
            force=force,
            labels=labels,
        )
        return ModelScan((await self._peer.call(self._stub.SyncModels, request)).scan)

    async def get_scan(self, id: int) -> ModelScan:
        """The scan with a number.

        Raises:
            UnknownJobIDException: There is none.
        """
        return ModelScan((await self._peer.call(self._stub.GetScan, made(pb.GetScanRequest, id=id))).scan)

    async def list_scans(self) -> list[ModelScan]:
        """All scans that are kept, newest first."""
        pages = self._peer.pages(self._stub.ListScans, made(pb.ListScansRequest))
        return [ModelScan(message) async for page in pages for message in page.scans]

    async def scan_findings(
        self, scan: ModelScan | int, kinds: Collection[FindingKind | str] = ()
    ) -> list[ScanFinding]:
        """What a scan has found by now, in the order of the paths.

        Args:
            scan: The scan, or its number.
            kinds: Only findings of these kinds, such as "new"; none: all.

        Raises:
            UnknownJobIDException: There is no such scan.
        """
        return [one async for one in self._findings(scan, kinds)]

    async def wait_for_scan(self, scan: ModelScan | int, timeout: float | None = None) -> ModelScan:
        """Wait until a scan has ended.

        Args:
            scan: The scan, or its number.
            timeout: Longest wait in seconds; None: as long as it takes.

        Raises:
            UnknownJobIDException: There is no such scan.
            DeadlineExceededException: It has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT_S if until is None else min(_WAIT_S, max(0.0, until - time.monotonic()))
            now = await self.scan_as_of(scan, left)
            if now.ended:
                return now
            if until is not None and time.monotonic() >= until:
                raise DeadlineExceededException(
                    f"Scan {now.id} has not ended in time.", metadata={"id": str(now.id)}
                )

    async def scan_as_of(self, scan: ModelScan | int, patience: float) -> ModelScan:
        """The scan when it has ended, or so many seconds later as it is then.

        Raises:
            UnknownJobIDException: There is no such scan.
        """
        request = made(pb.WaitScanRequest, id=_number_of(scan))
        request.timeout.FromMilliseconds(round(patience * 1000))
        return ModelScan((await self._peer.call(self._stub.WaitScan, request)).scan)

    async def cancel_scan(self, scan: ModelScan | int) -> ModelScan:
        """Cancel a scan; it ends soon. What it has registered stays.

        Raises:
            UnknownJobIDException: There is no such scan.
            WrongStateException: It is completed or has failed.
        """
        request = made(pb.CancelScanRequest, id=_number_of(scan))
        return ModelScan((await self._peer.call(self._stub.CancelScan, request)).scan)

    async def _done(self, scan: ModelScan) -> ModelScan:
        ended = await self.wait_for_scan(scan)
        if ended.exception is not None:
            raise ended.exception
        if ended.state == "cancelled":
            raise CancelledException(f"Scan {ended.id} was cancelled.", metadata={"id": str(ended.id)})
        return ended

    async def _findings(
        self, scan: ModelScan | int, kinds: Collection[FindingKind | str]
    ) -> AsyncIterator[ScanFinding]:
        request = made(
            pb.ListScanFindingsRequest,
            id=_number_of(scan),
            kinds=[f"SCAN_FINDING_KIND_{FindingKind(kind).name}" for kind in kinds],
        )
        async for page in self._peer.pages(self._stub.ListScanFindings, request):
            for message in page.findings:
                yield _finding_of(message)


def _number_of(scan: ModelScan | int) -> int:
    return scan if isinstance(scan, int) else scan.id


def _finding_of(message: pb.ScanFinding) -> ScanFinding:
    name = pb.ScanFindingKind.Name(message.kind).removeprefix("SCAN_FINDING_KIND_")
    return ScanFinding(
        message.path,
        FindingKind[name],
        message.key,
        exception_of(message.error) if message.HasField("error") else None,
        tuple(message.same_content_keys),
        tuple(message.missing_content_keys),
        message.removed,
        message,
    )
