"""RecordService as one process: what it opens, serves and closes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from modelkeep.model.v1.model_pb2 import Model
from modelkeep.record.v1 import record_service_pb2_grpc
from modelkeep_common.pictures import MAX_PICTURE_BYTES
from modelkeep_common.serving import Service
from modelkeep_common.watch import WatchHub

from .config import RecordSettings
from .domain.query import MAX_SEARCH_WORDS
from .domain.rules import MAX_RECORD_BYTES
from .service import RecordServicer
from .stores.opening import open_store
from .stores.store import RecordStore


class RecordApplication:
    """RecordService and what it needs, from start to end.

    Args:
        settings: What it was told.
        opened: Opens the store.
    """

    full_names = ("modelkeep.record.v1.RecordService",)

    def __init__(
        self,
        settings: RecordSettings,
        opened: Callable[[RecordSettings], Awaitable[RecordStore]] = open_store,
    ) -> None:
        self._settings = settings
        self._opened = opened

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Open the store. Raises StartupError."""
        store = await self._opened(self._settings)
        try:
            hub = WatchHub(store.log, parse=Model.FromString)
            servicer = RecordServicer(store, hub)
            yield Service(
                register=partial(record_service_pb2_grpc.add_RecordServiceServicer_to_server, servicer),
                info=partial(self._info, store),
                drain=hub.drain,
            )
        finally:
            await store.close()

    def _info(self, store: RecordStore) -> Mapping[str, Any]:
        return {
            "features": (store.backend,),
            "limits": {
                "max_exports": self._settings.max_exports,
                "max_export_milliseconds": round(self._settings.export_seconds * 1000),
                "max_record_bytes": MAX_RECORD_BYTES,
                "max_cover_image_bytes": MAX_PICTURE_BYTES,
                "max_searches": self._settings.max_searches,
                "max_search_milliseconds": round(self._settings.search_seconds * 1000),
                "max_search_words": MAX_SEARCH_WORDS,
            },
            # It opens no model's file; where they are it tells if it was told itself.
            "roots": [{"purpose": "models", "path": self._settings.models}]
            if self._settings.models_dir
            else [],
            "store_id": store.store_id,
        }
