"""The settings of RecordService."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from modelkeep.defaults import DEFAULT_PORTS
from modelkeep_common.settings import ServiceSettings


class RecordSettings(ServiceSettings):
    """What RecordService can be told; environment ``MODELKEEP_RECORD_*``."""

    service: ClassVar[str] = "record"

    port: int = Field(DEFAULT_PORTS["record"], ge=0, le=65535, description="TCP port; 0 takes a free one.")
    database_readers: int = Field(2, ge=1, le=64, description="Threads that read the database at once.")
    max_searches: int = Field(4, ge=1, le=64, description="Searches for free text that run at once.")
    search_seconds: float = Field(2, gt=0, le=60, description="Longest time of a search or a filtered list.")
