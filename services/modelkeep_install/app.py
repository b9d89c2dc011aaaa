"""Wiring: what an InstallService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc.aio

from modelkeep.headers import MAX_HEADER_BYTES
from modelkeep.install.v1 import install_pb2, install_service_pb2_grpc
from modelkeep.rpc import open_async_channel, with_retries
from modelkeep_common.paths import lock_root
from modelkeep_common.peers import Address, peer_address
from modelkeep_common.room import Room
from modelkeep_common.sqlite import Database
from modelkeep_common.watch import WatchHub

from . import convert
from .config import InstallSettings
from .domain import Installer
from .domain_jobs import Job
from .domain_roots import ModelRoots
from .peers import Downloads, Records
from .service import InstallServicer
from .store import COLLECTION, MIGRATIONS, InstallStore


class InstallApplication:
    """InstallService and what it needs, from start to end."""

    service_name = "install"
    full_names = ("modelkeep.install.v1.InstallService",)

    def __init__(self, settings: InstallSettings) -> None:
        self._settings = settings
        self._held = contextlib.ExitStack()
        self._channels: list[grpc.aio.Channel] = []
        self._db: Database | None = None
        self._hub: WatchHub[install_pb2.Install] | None = None
        self._installer: Installer | None = None

    async def open(self) -> None:
        """Takes models_dir for itself, opens the store, and goes on with the jobs in it."""
        settings = self._settings
        self._roots = await asyncio.to_thread(self._take_models_dir)
        self._db = await Database.open(
            settings.database,
            MIGRATIONS,
            "install",
            reserve_bytes=settings.reserve_bytes,
            limits=settings.store_limits,
        )
        self._store = InstallStore(self._db, convert.encode_install)
        self._hub = WatchHub(self._db, collection=COLLECTION, parse=install_pb2.Install.FromString)
        record, download = await asyncio.to_thread(self._peers)
        self._channels = [open_async_channel(record, with_retries()), open_async_channel(download)]
        self._installer = Installer(
            self._store,
            Records(self._channels[0], record),
            Downloads(self._channels[1], download),
            self._roots,
            room=Room(self._roots.models_dir, settings.disk_reserve_bytes),
            progressed=self._progressed,
        )
        await self._installer.start()

    def _take_models_dir(self) -> ModelRoots:
        """Locks the folder for this process; two suites on one would move each other's files."""
        settings = self._settings
        root_id = self._held.enter_context(lock_root(settings.models))
        return ModelRoots(
            settings.models,
            root_id,
            settings.roots,
            for_owner=settings.owner_roots,
            data_dir=settings.data_dir,
        )

    def _peers(self) -> tuple[Address, Address]:
        settings = self._settings
        own = settings.peer_token_file
        return (
            peer_address("record", settings.record_address, own),
            peer_address("download", settings.download_address, own),
        )

    def _progressed(self, job: Job) -> None:
        assert self._hub is not None
        self._hub.progress(str(job.id), convert.install_message(job))

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to the server."""
        assert self._installer is not None
        assert self._hub is not None
        servicer = InstallServicer(self._installer, self._store, self._hub)
        install_service_pb2_grpc.add_InstallServiceServicer_to_server(servicer, server)

    def server_info(self) -> Mapping[str, Any]:
        """What GetServerInfo says of this service."""
        return {
            "features": ("local-path", "url", "probe-safetensors", "probe-diffusers", "sqlite"),
            "limits": {"max_header_bytes": MAX_HEADER_BYTES},
            "roots": [
                {"purpose": "models", "path": self._roots.models_dir, "root_id": self._roots.root_id},
                *({"purpose": "import", "path": root} for root in self._roots.import_roots),
            ],
            "store_id": self._db.store_id if self._db is not None else "",
        }

    async def drain(self) -> None:
        """Ends the watches with their tokens, and stops the jobs where they are."""
        if self._hub is not None:
            await self._hub.drain()
        if self._installer is not None:
            await self._installer.stop()

    async def close(self) -> None:
        """Closes everything; also after an open that failed half-way."""
        if self._installer is not None:
            await self._installer.stop()
            await self._installer.close()
        for channel in self._channels:
            await channel.close()
        if self._db is not None:
            await self._db.close()
        await asyncio.to_thread(self._held.close)
