"""Wiring: what an InstallService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import Any

from modelkeep.headers import MAX_HEADER_BYTES
from modelkeep.install.v1 import install_pb2, install_service_pb2_grpc
from modelkeep.rpc import open_async_channel, with_retries
from modelkeep_common.paths import lock_root
from modelkeep_common.peers import Address, peer_address
from modelkeep_common.room import Room
from modelkeep_common.serving import Service
from modelkeep_common.sqlite import Database
from modelkeep_common.threads import in_thread
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.sqlite_log import SqliteLog

from . import convert
from .config import InstallSettings
from .domain.roots import ModelRoots
from .installer import Installer
from .invokeai.course import InvokeAIImports
from .peers import Downloads, Leases, Records
from .presence import Presence
from .scan.looking import Tools
from .scan.scanner import Scanner
from .scan.store import ScanStore
from .service import InstallServicer
from .store import COLLECTION, MIGRATIONS, InstallStore


class InstallApplication:
    """InstallService and what it needs, from start to end."""

    full_names = ("modelkeep.install.v1.InstallService",)

    def __init__(self, settings: InstallSettings) -> None:
        self._settings = settings

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Takes models_dir for itself, opens the store, and goes on with the jobs in it."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as held:
            roots = await held.enter_async_context(in_thread(self._take_models_dir()))
            db = await Database.open(
                settings.database,
                MIGRATIONS,
                "install",
                reserve_bytes=settings.reserve_bytes,
                limits=settings.store_limits,
            )
            held.push_async_callback(db.close)
            store = InstallStore(db, convert.encode_install)
            hub = WatchHub(SqliteLog(db, COLLECTION), parse=install_pb2.Install.FromString)
            record, download, loader = await asyncio.to_thread(self._peers)
            to_record, to_download = open_async_channel(record, with_retries()), open_async_channel(download)
            held.push_async_callback(to_record.close)
            held.push_async_callback(to_download.close)
            leases = None
            if loader is not None:
                to_loader = open_async_channel(loader)
                held.push_async_callback(to_loader.close)
                leases = Leases(to_loader, loader)
            records = Records(to_record, record)
            installer = Installer(
                store,
                records,
                Downloads(to_download, download),
                roots,
                loader=leases,
                mirrors=settings.mirrors,
                room=Room(roots.models_dir, settings.disk_reserve_bytes),
                news=lambda job: hub.progress(str(job.id), convert.install_message(job)),
            )
            held.push_async_callback(installer.close)
            held.push_async_callback(installer.stop)
            await installer.start()
            presence = Presence(records, roots, settings.check_files_seconds)
            held.push_async_callback(presence.close)
            presence.start()
            autoimport = await asyncio.to_thread(lambda: settings.autoimport)
            tools = Tools(
                ScanStore(db),
                installer,
                store,
                records,
                presence,
                roots,
                settings.data_dir,
                autoimport=autoimport,
            )
            scanner = Scanner(tools, sync_at_start=settings.sync_at_start)
            held.push_async_callback(scanner.stop)
            await scanner.start()
            invokeai = InvokeAIImports(records, roots)
            servicer = InstallServicer(installer, store, hub, presence, scanner, invokeai)

            async def drain() -> None:
                await hub.drain()
                await scanner.stop()
                await installer.stop()

            yield Service(
                register=partial(install_service_pb2_grpc.add_InstallServiceServicer_to_server, servicer),
                info=partial(_info, roots, db.store_id, settings.check_files_seconds),
                drain=drain,
            )

    @contextlib.contextmanager
    def _take_models_dir(self) -> Iterator[ModelRoots]:
        """Locks the folder for this process; two suites on one would move each other's files."""
        settings = self._settings
        with lock_root(settings.models) as root_id:
            yield ModelRoots(
                settings.models,
                root_id,
                settings.roots,
                for_owner=settings.owner_roots,
                data_dir=settings.data_dir,
            )

    def _peers(self) -> tuple[Address, Address, Address | None]:
        settings = self._settings
        return (
            peer_address("record", settings.record_address, settings),
            peer_address("download", settings.download_address, settings),
            peer_address("loader", settings.loader_address, settings) if settings.loader_address else None,
        )


def _info(roots: ModelRoots, store_id: str, check_files_s: float) -> Mapping[str, Any]:
    return {
        "features": (
            "local-path",
            "url",
            "hub",
            "probe-safetensors",
            "probe-diffusers",
            "scan",
            "invokeai",
            "sqlite",
        ),
        "limits": {
            "max_header_bytes": MAX_HEADER_BYTES,
            "check_files_milliseconds": round(check_files_s * 1000),
        },
        "roots": [
            {"purpose": "models", "path": roots.models_dir, "root_id": roots.root_id},
            *({"purpose": "import", "path": root} for root in roots.import_roots),
        ],
        "store_id": store_id,
    }
