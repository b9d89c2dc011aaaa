"""RecordService as one process: what it opens, serves and closes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc.aio

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2_grpc
from modelkeep_common.watch import WatchHub

from .config import RecordSettings
from .domain import MAX_RECORD_BYTES
from .domain_query import MAX_SEARCH_WORDS
from .service import RecordServicer
from .store import COLLECTION, SqliteRecordStore


class RecordApplication:
    """RecordService and what it needs, from start to end."""

    service_name = "record"
    full_names = ("modelkeep.record.v1.RecordService",)

    def __init__(self, settings: RecordSettings) -> None:
        self._settings = settings
        self._store: SqliteRecordStore | None = None
        self._hub: WatchHub[Model] | None = None

    async def open(self) -> None:
        """Open the database. Raises StartupError."""
        settings = self._settings
        self._store = await SqliteRecordStore.open(
            settings.database,
            readers=settings.database_readers,
            reserve_bytes=settings.reserve_bytes,
            limits=settings.store_limits,
            max_searches=settings.max_searches,
            search_s=settings.search_seconds,
        )
        self._hub = WatchHub(self._store.db, collection=COLLECTION, parse=Model.FromString)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to the server."""
        assert self._store is not None
        assert self._hub is not None
        servicer = RecordServicer(self._store, self._hub)
        record_service_pb2_grpc.add_RecordServiceServicer_to_server(servicer, server)

    def server_info(self) -> Mapping[str, Any]:
        """What GetServerInfo says of this service."""
        return {
            "features": ("sqlite",),
            "limits": {
                "max_record_bytes": MAX_RECORD_BYTES,
                "max_searches": self._settings.max_searches,
                "max_search_milliseconds": round(self._settings.search_seconds * 1000),
                "max_search_words": MAX_SEARCH_WORDS,
            },
            "store_id": self._store.db.store_id if self._store is not None else "",
        }

    async def drain(self) -> None:
        """End the watches, each with its token."""
        if self._hub is not None:
            await self._hub.drain()

    async def close(self) -> None:
        """Close the database."""
        if self._store is not None:
            await self._store.close()
