"""Scans over the wire, for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelkeep.install.v1 import scan_pb2 as pb
from support.installs import InstallClient

NEW, KNOWN, UNKNOWN, UNREADABLE, MOVED, ORPHAN, FAILED = range(1, 8)
WAITING, RUNNING, COMPLETED, ERROR, CANCELLED = range(1, 6)


async def begin_scan(service: InstallClient, path: Path, **fields: Any) -> pb.Scan:
    """ScanDirectory; answers at once."""
    answer: pb.ScanDirectoryResponse = await service.stub.ScanDirectory(
        pb.ScanDirectoryRequest(path=str(path), **fields)
    )
    return answer.scan


async def ended_scan(service: InstallClient, scan: pb.Scan | int, timeout: float = 25) -> pb.Scan:
    """The scan when it has ended."""
    request = pb.WaitScanRequest(id=scan if isinstance(scan, int) else scan.id)
    request.timeout.FromMilliseconds(int(timeout * 1000))
    answer: pb.WaitScanResponse = await service.stub.WaitScan(request)
    assert answer.scan.ended, f"not ended: {answer.scan}"
    return answer.scan


async def scan(service: InstallClient, path: Path, **fields: Any) -> pb.Scan:
    """ScanDirectory, then the scan when it has ended, which is COMPLETED."""
    done = await ended_scan(service, await begin_scan(service, path, **fields))
    assert done.state == COMPLETED, done
    return done


async def sync(service: InstallClient, **fields: Any) -> pb.Scan:
    """SyncModels, then the scan when it has ended."""
    answer: pb.SyncModelsResponse = await service.stub.SyncModels(pb.SyncModelsRequest(**fields))
    return await ended_scan(service, answer.scan)


async def findings(service: InstallClient, scan: pb.Scan, *kinds: int) -> list[pb.ScanFinding]:
    """All findings of a scan, of these kinds if any are given."""
    found: list[pb.ScanFinding] = []
    token = ""
    while True:
        request = pb.ListScanFindingsRequest(
            id=scan.id,
            kinds=kinds,  # type: ignore[arg-type]  # numbers are taken
            page_size=1000,
            page_token=token,
        )
        page: pb.ListScanFindingsResponse = await service.stub.ListScanFindings(request)
        found += page.findings
        token = page.next_page_token
        if not token:
            return found


async def found(service: InstallClient, scan: pb.Scan, top: Path) -> dict[str, int]:
    """What a scan found by the path beneath a folder."""
    return {
        str(Path(one.path).relative_to(top)) if Path(one.path).is_relative_to(top) else one.path: one.kind
        for one in await findings(service, scan)
    }


async def scan_until(
    service: InstallClient, scan: pb.Scan, condition: Callable[[pb.Scan], bool], timeout: float = 15
) -> pb.Scan:
    """The scan as soon as the condition holds."""
    deadline = time.monotonic() + timeout
    while True:
        now: pb.GetScanResponse = await service.stub.GetScan(pb.GetScanRequest(id=scan.id))
        if condition(now.scan):
            return now.scan
        assert time.monotonic() < deadline, f"never so: {now.scan}"
        await asyncio.sleep(0.01)
