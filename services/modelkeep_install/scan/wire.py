"""Scans on the wire: a few lines a method."""

from __future__ import annotations

from typing import Any

from modelkeep.install.v1 import scan_pb2 as pb
from modelkeep_common.calls import current_call
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.paging import AskedPage
from modelkeep_common.wire import to_seconds, to_timestamp

from ..convert import error_message
from ..domain.requests import Caller
from .found import Finding, FindingKind, Scan
from .scanner import Scanner

_KINDS = {pb.ScanFindingKind.Value(f"SCAN_FINDING_KIND_{kind.name}"): kind for kind in FindingKind}


class ScanMethods:
    """The methods of InstallService that concern scans; the .proto says what they do."""

    _scanner: Scanner

    async def ScanDirectory(
        self, request: pb.ScanDirectoryRequest, context: object
    ) -> pb.ScanDirectoryResponse:
        scan = await self._scanner.scan_directory(
            request.path,
            _caller(request),
            install=request.install,
            validate_only=request.validate_only,
            labels=dict(request.labels),
        )
        return pb.ScanDirectoryResponse(scan=scan_message(scan))

    async def SyncModels(self, request: pb.SyncModelsRequest, context: object) -> pb.SyncModelsResponse:
        scan = await self._scanner.sync(
            _caller(request),
            validate_only=request.validate_only,
            remove_orphans=request.remove_orphans,
            force=request.force,
            labels=dict(request.labels),
        )
        return pb.SyncModelsResponse(scan=scan_message(scan))

    async def GetScan(self, request: pb.GetScanRequest, context: object) -> pb.GetScanResponse:
        return pb.GetScanResponse(scan=scan_message(await self._scanner.get(request.id)))

    async def ListScans(self, request: pb.ListScansRequest, context: object) -> pb.ListScansResponse:
        asked = AskedPage(request, int)
        scans = await self._scanner.page(before=asked.after, limit=asked.limit)
        page, more = asked.of(scans, scan_message, lambda message: message.id)
        return pb.ListScansResponse(scans=page, next_page_token=more)

    async def WaitScan(self, request: pb.WaitScanRequest, context: object) -> pb.WaitScanResponse:
        asked = to_seconds(request.timeout) if request.HasField("timeout") else None
        scan = await self._scanner.wait(request.id, current_call().patience(asked))
        return pb.WaitScanResponse(scan=scan_message(scan))

    async def CancelScan(self, request: pb.CancelScanRequest, context: object) -> pb.CancelScanResponse:
        return pb.CancelScanResponse(scan=scan_message(await self._scanner.cancel(request.id)))

    async def ListScanFindings(
        self, request: pb.ListScanFindingsRequest, context: object
    ) -> pb.ListScanFindingsResponse:
        asked = AskedPage(request, str)
        kinds = [_KINDS[kind] for kind in request.kinds]
        found = await self._scanner.findings(request.id, kinds, after=asked.after or "", limit=asked.limit)
        page, more = asked.of(found, _finding_message, lambda message: message.path)
        return pb.ListScanFindingsResponse(findings=page, next_page_token=more)


def scan_message(scan: Scan) -> pb.Scan:
    """A scan as the wire's resource."""
    counted = scan.counts
    message = pb.Scan(
        id=scan.id,
        kind=f"SCAN_KIND_{scan.kind.name}",
        path=scan.path,
        install=scan.install,
        validate_only=scan.validate_only,
        remove_orphans=scan.remove_orphans,
        force=scan.force,
        labels=scan.labels,
        state=f"SCAN_STATE_{scan.state.name}",
        ended=scan.state.final,
        counts=pb.ScanCounts(
            folder_count=counted.folders,
            file_count=counted.files,
            removed_count=counted.removed,
            **{f"{kind.value}_count": number for kind, number in counted.kinds.items()},
        ),
        registered_keys=scan.keys,
        create_time=to_timestamp(scan.create_time),
        attempt=scan.attempt,
        at_start=scan.at_start,
    )
    for name, seconds in (("start_time", scan.start_time), ("end_time", scan.end_time)):
        if seconds is not None:
            getattr(message, name).CopyFrom(to_timestamp(seconds))
    if scan.error is not None:
        message.error.CopyFrom(error_message(scan.error))
    return message


def _finding_message(finding: Finding) -> pb.ScanFinding:
    message = pb.ScanFinding(
        path=finding.path,
        kind=f"SCAN_FINDING_KIND_{finding.kind.name}",
        key=finding.key,
        same_content_keys=finding.same_content,
        missing_content_keys=finding.missing_content,
        removed=finding.removed,
    )
    if finding.error is not None:
        message.error.CopyFrom(error_message(finding.error))
    return message


def _caller(request: Any) -> Caller:
    call = current_call()
    return Caller(request.request_id, fingerprint(request), call.principal, call.method)
