"""Opening the store that the settings ask for."""

from __future__ import annotations

from ..config import YAML_SUFFIXES, RecordSettings
from .sqlite import SqliteRecordStore
from .store import RecordStore


async def open_store(settings: RecordSettings) -> RecordStore:
    """Open it, making or migrating it as needed.

    Raises:
        StartupError: 65 for a newer schema, a file of another kind or one with a mistake in it, 73 if it
            cannot be written.
    """
    if settings.records.suffix.lower() in YAML_SUFFIXES:
        from .yaml import YamlRecordStore  # keeps two YAML libraries out of a plain start

        return await YamlRecordStore.open(
            settings.records,
            reserve_bytes=settings.reserve_bytes,
            limits=settings.store_limits,
            max_searches=settings.max_searches,
            search_s=settings.search_seconds,
        )
    return await SqliteRecordStore.open(
        settings.records,
        readers=settings.database_readers,
        reserve_bytes=settings.reserve_bytes,
        limits=settings.store_limits,
        max_searches=settings.max_searches,
        search_s=settings.search_seconds,
        max_exports=settings.max_exports,
        export_s=settings.export_seconds,
    )
