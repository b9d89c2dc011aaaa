"""Wiring: what a DownloadService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from modelkeep.download.v1 import download_pb2, download_service_pb2_grpc
from modelkeep_common.paths import AllowedRoots, lock_root
from modelkeep_common.serving import Service
from modelkeep_common.sqlite import Database
from modelkeep_common.threads import in_thread
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.sqlite_log import SqliteLog
from modelkeep_download import convert
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Job, SourceKind
from modelkeep_download.engine.downloads import Downloads
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.runner import LoopClock, Runner
from modelkeep_download.engine.scheduler import Scheduler
from modelkeep_download.engine.transfer import Transfer
from modelkeep_download.engine.transport import HttpTransport, Limits
from modelkeep_download.service import DownloadServicer
from modelkeep_download.sources.local import LocalSource
from modelkeep_download.sources.url import HttpTransfer, UrlSource
from modelkeep_download.store import COLLECTION, MIGRATIONS, JobStore, StoredJobs, resource_id


class DownloadApplication:
    """One DownloadService, from its settings.

    Args:
        settings: What it is told.
        transfer: Another way to fetch URLs than the built-in one; see `Transfer`.
    """

    full_names = ("modelkeep.download.v1.DownloadService",)

    def __init__(self, settings: DownloadSettings, *, transfer: Transfer | None = None) -> None:
        self._settings = settings
        self._transfer = transfer or http_transfer(settings)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Lock the roots, open the store, and go on with the jobs in it."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as held:
            places, root_ids = await held.enter_async_context(in_thread(self._take_roots()))
            db = await Database.open(
                settings.database,
                MIGRATIONS,
                "download",
                reserve_bytes=settings.reserve_bytes,
                limits=settings.store_limits,
            )
            held.push_async_callback(db.close)
            hub = WatchHub[download_pb2.Download](SqliteLog(db, COLLECTION), parse=convert.parse_job)

            def encode(job: Job) -> bytes:
                # A change tells the bytes of its moment as progress does, or they would seem to go back.
                return convert.encode_job(scheduler.live(job))

            def progress(job: Job) -> None:
                hub.progress(resource_id(job.id), convert.job_to_proto(job))

            store = JobStore(encode)
            local = LocalSource(
                places.sources,
                checkpoint_bytes=settings.checkpoint_bytes,
                checkpoint_s=settings.checkpoint_s,
            )
            runner = Runner(
                {SourceKind.URL: UrlSource(self._transfer), SourceKind.PATH: local},
                places.roots.roots,
                settings.max_parallel_downloads,
            )
            scheduler = Scheduler(StoredJobs(db, store), runner, LoopClock(), settings, progress)
            held.push_async_callback(scheduler.drain)
            downloads = Downloads(db, store, scheduler, places=places, max_jobs=settings.max_jobs)
            await scheduler.open()
            servicer = DownloadServicer(downloads, hub)

            async def drain() -> None:
                """End the watches; stop the transfers with their bytes durable."""
                await hub.drain()
                await scheduler.drain()

            yield Service(
                register=partial(download_service_pb2_grpc.add_DownloadServiceServicer_to_server, servicer),
                info=partial(self._info, db.store_id, str(places.models_dir), root_ids),
                drain=drain,
            )

    @contextlib.contextmanager
    def _take_roots(self) -> Iterator[tuple[Places, Mapping[str, str]]]:
        """Lock the roots; where downloads may go, and where local sources may lie, and the roots' ids."""
        settings = self._settings
        roots, data_dir = settings.roots, settings.data_dir
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
        with contextlib.ExitStack() as held:
            yield places, {str(root): held.enter_context(lock_root(root, role="download")) for root in roots}

    def _info(self, store_id: str, models: str, root_ids: Mapping[str, str]) -> Mapping[str, Any]:
        settings = self._settings
        return {
            "store_id": store_id,
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
                    {"purpose": "models" if path == models else "download", "path": path, "root_id": root_id}
                    for path, root_id in root_ids.items()
                ),
                *({"purpose": "import", "path": str(root)} for root in settings.import_roots),
            ],
        }


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
