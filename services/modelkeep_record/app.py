"""RecordService as one process: what it opens, serves and closes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2_grpc
from modelkeep_common.serving import Service
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.sqlite_log import SqliteLog

from .config import RecordSettings
from .domain.query import MAX_SEARCH_WORDS
from .domain.rules import MAX_RECORD_BYTES
from .service import RecordServicer
from .stores.sqlite import COLLECTION, SqliteRecordStore


class RecordApplication:
    """RecordService and what it needs, from start to end."""

    full_names = ("modelkeep.record.v1.RecordService",)

    def __init__(self, settings: RecordSettings) -> None:
        self._settings = settings

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Open the database. Raises StartupError."""
        settings = self._settings
        store = await SqliteRecordStore.open(
            settings.database,
            readers=settings.database_readers,
            reserve_bytes=settings.reserve_bytes,
            limits=settings.store_limits,
            max_searches=settings.max_searches,
            search_s=settings.search_seconds,
        )
        try:
            hub = WatchHub(SqliteLog(store.db, COLLECTION), parse=Model.FromString)
            servicer = RecordServicer(store, hub)
            yield Service(
                register=partial(record_service_pb2_grpc.add_RecordServiceServicer_to_server, servicer),
                info=partial(self._info, store),
                drain=hub.drain,
            )
        finally:
            await store.close()

    def _info(self, store: SqliteRecordStore) -> Mapping[str, Any]:
        return {
            "features": ("sqlite",),
            "limits": {
                "max_record_bytes": MAX_RECORD_BYTES,
                "max_searches": self._settings.max_searches,
                "max_search_milliseconds": round(self._settings.search_seconds * 1000),
                "max_search_words": MAX_SEARCH_WORDS,
            },
            # It opens no model's file; where they are it tells if it was told itself.
            "roots": [{"purpose": "models", "path": self._settings.models}]
            if self._settings.models_dir
            else [],
            "store_id": store.db.store_id,
        }
