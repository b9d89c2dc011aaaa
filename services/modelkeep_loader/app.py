"""Wiring: what a LoaderService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from modelkeep.loader.v1 import loader_service_pb2_grpc
from modelkeep_common.paths import AllowedRoots, ensure_marker
from modelkeep_common.peers import Address, peer_address
from modelkeep_common.startup import StartupError
from modelkeep_loader import convert
from modelkeep_loader.config import LoaderSettings
from modelkeep_loader.domain.cache import RamCache
from modelkeep_loader.domain.components import Resident, Stage
from modelkeep_loader.domain.find import Finder
from modelkeep_loader.domain.lending import Lending, host_boot_id
from modelkeep_loader.domain.plan import Planner
from modelkeep_loader.fd_socket import DescriptorServer, socket_folder
from modelkeep_loader.helper import Helper
from modelkeep_loader.peers import RecordClient
from modelkeep_loader.service import LoaderServicer
from modelkeep_loader.store import ResidentHistory


class LoaderApplication:
    """One LoaderService, from its settings."""

    service_name = "loader"
    full_names = ("modelkeep.loader.v1.LoaderService",)

    def __init__(self, settings: LoaderSettings) -> None:
        self._settings = settings
        self._closers = contextlib.AsyncExitStack()
        self._known_root_id: str | None = None

    async def open(self) -> None:
        """Take the descriptor socket, begin a new history, and be ready to lend."""
        settings, closers = self._settings, self._closers
        folder, roots, boot_id = await asyncio.to_thread(self._look_around)
        self._records = RecordClient(await asyncio.to_thread(self._peer))
        closers.push_async_callback(self._records.close)
        self._helper = Helper(roots, idle_s=settings.helper_idle_s)
        closers.push_async_callback(self._helper.close)
        cache = RamCache(
            self._helper,
            budget_bytes=self._budget,
            on_change=self._changed,
            on_progress=lambda resident: self._history.progress(convert.resident_message(resident)),
        )
        finder = Finder(self._models_root, self._root_id, roots)
        planner = Planner(self._records, finder, budget_bytes=self._budget)
        self._lending = Lending(
            planner,
            cache,
            boot_id=boot_id,
            detach_grace_s=settings.detach_grace_s,
            ticket_valid_s=settings.ticket_valid_s,
            max_leases=settings.max_leases,
            max_per_principal=settings.max_leases_per_principal,
        )
        # The socket's lock comes first: it is what keeps a second loader off this data folder.
        self._descriptors = DescriptorServer(folder, self._lending)
        await self._descriptors.open()
        closers.push_async_callback(self._descriptors.close)
        self._history = await ResidentHistory.open(
            settings.database, reserve_bytes=settings.reserve_bytes, limits=settings.store_limits
        )
        closers.push_async_callback(self._history.close)
        closers.push_async_callback(self._lending.close)
        await self._lending.open()
        self._servicer = LoaderServicer(self._lending, self._history, str(self._descriptors.path))
        if settings.warm_helper:
            self._warming = asyncio.get_running_loop().create_task(self._helper.warm(), name="warm helper")

    def register(self, server: grpc.aio.Server) -> None:
        """Serve LoaderService."""
        loader_service_pb2_grpc.add_LoaderServiceServicer_to_server(self._servicer, server)

    def server_info(self) -> Mapping[str, Any]:
        """What GetServerInfo says about this process."""
        root_id = self._known_root_id or ""
        return {
            "store_id": self._history.store_id,
            "features": ["memfd", "descriptors", "cast"],
            "limits": {
                "ram_budget_bytes": self._budget,
                "max_leases": self._settings.max_leases,
                "max_leases_per_principal": self._settings.max_leases_per_principal,
            },
            "roots": [
                {
                    "purpose": "models",
                    "path": str(self._models_root),
                    "root_id": root_id,
                },
                *({"purpose": "import", "path": str(root)} for root in self._import_roots),
            ],
            "devices": [convert.DEVICE],
        }

    async def drain(self) -> None:
        """End holds and watches. What workers have mapped stays valid."""
        self._servicer.drain()
        await self._history.hub.drain()

    async def close(self) -> None:
        """End the helper and let go of all memory."""
        await self._closers.aclose()

    def _changed(self, resident: Resident, gone: bool) -> None:
        if gone:
            self._history.changed(resident.id, None)
            return
        retry_in = None
        if resident.stage is Stage.FAILED:
            retry_in = max(0.0, resident.retry_at - time.monotonic())
        self._history.changed(resident.id, convert.resident_message(resident, retry_in=retry_in))

    def _peer(self) -> Address:
        return peer_address("record", self._settings.record_address, self._settings.peer_token_file)

    def _look_around(self) -> tuple[Path, AllowedRoots, str]:
        """In a thread: what has to be asked of the file system."""
        settings = self._settings
        self._models_root, *self._import_roots = settings.roots
        self._budget = settings.ram_budget
        self._root_id()
        folder = socket_folder(settings.service_dir, settings.descriptor_dir)
        roots = AllowedRoots(
            settings.roots,
            data_dir=settings.data_dir,
            models=[self._models_root],
            setting="import_roots",
        )
        return folder, roots, host_boot_id()

    def _root_id(self) -> str | None:
        """In a thread: the id of the models folder, which may be made or mounted after the loader's start."""
        try:
            self._known_root_id = ensure_marker(self._models_root, create=False)
        except StartupError:
            self._known_root_id = None  # records that name a root will be refused
        return self._known_root_id
