"""The settings of RecordService."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from pydantic import Field, field_validator

from modelkeep.defaults import DEFAULT_PORTS
from modelkeep_common.settings import ServiceSettings

#: How the name of a file of YAML ends; that of SQLite ends in ".db".
YAML_SUFFIXES: Final = (".yaml", ".yml")


class RecordSettings(ServiceSettings):
    """What RecordService can be told; environment ``MODELKEEP_RECORD_*``."""

    service: ClassVar[str] = "record"

    port: int = Field(DEFAULT_PORTS["record"], ge=0, le=65535, description="TCP port; 0 takes a free one.")
    model_config_db: Path | None = Field(
        None,
        description="File of the records: SQLite (.db), or YAML (.yaml, .yml) for few records that people "
        "edit; <data-dir>/record/record.db when unset.",
    )
    database_readers: int = Field(2, ge=1, le=64, description="Threads that read the database at once.")
    max_searches: int = Field(4, ge=1, le=64, description="Searches for free text that run at once.")
    search_seconds: float = Field(2, gt=0, le=60, description="Longest time of a search or a filtered list.")
    max_exports: int = Field(2, ge=1, le=64, description="Exports of all records that are read at once.")
    export_seconds: float = Field(600, gt=0, le=86400, description="Longest time of an export.")

    @field_validator("model_config_db")
    @classmethod
    def _has_a_known_ending(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix.lower() not in (".db", *YAML_SUFFIXES):
            raise ValueError(f"must end in .db, .yaml or .yml, which says what kind of file it is: {path}")
        return path

    @property
    def records(self) -> Path:
        """The file of the records."""
        return self.model_config_db.expanduser() if self.model_config_db is not None else self.database
