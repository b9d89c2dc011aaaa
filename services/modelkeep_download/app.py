"""Wiring: what a DownloadService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.download.v1 import download_pb2, download_service_pb2_grpc
from modelkeep_common.paths import AllowedRoots, lock_root
from modelkeep_common.sqlite import Database
from modelkeep_common.watch import WatchHub
from modelkeep_download import convert
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Job
from modelkeep_download.engine.downloads import Downloads
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.runner import Runner
from modelkeep_download.engine.scheduler import Scheduler
from modelkeep_download.engine.transfer import HttpTransfer, Transfer
from modelkeep_download.engine.transport import HttpTransport, Limits
from modelkeep_download.service import DownloadServicer
from modelkeep_download.sources.local import LocalTransfer
from modelkeep_download.store import COLLECTION, MIGRATIONS, JobStore, resource_id


class DownloadApplication:
    """One DownloadService, from its settings.

    Args:
        settings: What it is told.
        transfer: Another way to fetch URLs than the built-in one; see `Transfer`.
    """

    service_name = "download"
    full_names = ("modelkeep.download.v1.DownloadService",)

    def __init__(self, settings: DownloadSettings, *, transfer: Transfer | None = None) -> None:
        self._settings = settings
        self._transfer = transfer or http_transfer(settings)
        self._held = contextlib.ExitStack()
        self._root_ids: dict[str, str] = {}

    async def open(self) -> None:
        """Lock the roots, open the store, and go on with the jobs in it."""
        settings = self._settings
        places = await asyncio.to_thread(self._take_roots)
        self._db = await Database.open(
            settings.database,
            MIGRATIONS,
            "download",
            reserve_bytes=settings.reserve_bytes,
            limits=settings.store_limits,
        )
        self._hub = WatchHub[download_pb2.Download](self._db, collection=COLLECTION, parse=convert.parse_job)
        # A change tells the bytes of its moment as progress does, or they would seem to go back.
        store = JobStore(lambda job: convert.encode_job(self._scheduler.live(job)))
        local = LocalTransfer(
            places.sources, checkpoint_bytes=settings.checkpoint_bytes, checkpoint_s=settings.checkpoint_s
        )
        runner = Runner(self._transfer, local, places.sources)
        self._scheduler = Scheduler(self._db, store, runner, settings, self._progress)
        self._downloads = Downloads(
            self._db, store, self._scheduler, places=places, max_jobs=settings.max_jobs
        )
        await self._scheduler.open()

    def register(self, server: grpc.aio.Server) -> None:
        """Serve DownloadService."""
        servicer = DownloadServicer(self._downloads, self._hub)
        download_service_pb2_grpc.add_DownloadServiceServicer_to_server(servicer, server)

    def server_info(self) -> Mapping[str, Any]:
        """What GetServerInfo says about this process."""
        settings = self._settings
        return {
            "store_id": self._db.store_id,
            "features": ["http", "local-path", "sha256", "resume", "sqlite"],
            "limits": {
                "max_parallel_downloads": settings.max_parallel_downloads,
                "max_jobs": settings.max_jobs,
                "checkpoint_bytes": settings.checkpoint_bytes,
                "max_unsized_bytes": settings.max_unsized_bytes,
                "disk_reserve_bytes": settings.disk_reserve_bytes,
            },
            "roots": [
                *(
                    {
                        "purpose": "models" if path == self._models else "download",
                        "path": path,
                        "root_id": root_id,
                    }
                    for path, root_id in self._root_ids.items()
                ),
                *({"purpose": "import", "path": str(root)} for root in settings.import_roots),
            ],
        }

    async def drain(self) -> None:
        """End the watches; stop the transfers with their bytes durable."""
        await self._hub.drain()
        await self._scheduler.drain()

    async def close(self) -> None:
        """Close the store and let go of the roots."""
        if hasattr(self, "_scheduler"):
            await self._scheduler.drain()
        if hasattr(self, "_db"):
            await self._db.close()
        self._held.close()

    def _take_roots(self) -> Places:
        """Lock the roots; where downloads may go, and where local sources may lie."""
        settings = self._settings
        roots, data_dir = settings.roots, settings.data_dir
        self._models = str(settings.models)
        places = Places(
            AllowedRoots(roots, data_dir=data_dir, models=roots, setting="download_roots"),
            AllowedRoots(
                [*settings.import_roots, *roots],
                data_dir=data_dir,
                models=roots,
                for_owner=(Path("/"),) if settings.allow_any_import_root else (),
                setting="import_roots",
            ),
            settings.models,
        )
        for root in roots:
            self._root_ids[str(root)] = self._held.enter_context(lock_root(root, role="download"))
        return places

    def _progress(self, job: Job) -> None:
        self._hub.progress(resource_id(job.id), convert.job_to_proto(job))


def http_transfer(settings: DownloadSettings) -> HttpTransfer:
    """The built-in way to fetch URLs."""
    limits = Limits(
        connect_timeout_s=settings.connect_timeout_s,
        headers_timeout_s=settings.headers_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
        min_bytes_per_second=settings.min_bytes_per_second,
        max_redirects=settings.max_redirects,
    )
    transport = HttpTransport(AddressGuard(allow_private=settings.allow_private_addresses), limits)
    return HttpTransfer(
        transport,
        checkpoint_bytes=settings.checkpoint_bytes,
        checkpoint_s=settings.checkpoint_s,
        max_unsized_bytes=settings.max_unsized_bytes,
    )
