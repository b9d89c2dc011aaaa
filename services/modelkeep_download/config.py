"""Settings of DownloadService."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from modelkeep.defaults import DEFAULT_PORTS
from modelkeep_common.data_folder import DOWNLOADS
from modelkeep_common.modes import umask_for
from modelkeep_common.settings import ServiceSettings


class DownloadSettings(ServiceSettings):
    """What DownloadService can be told, besides what every service can."""

    service: ClassVar[str] = "download"

    port: int = Field(DEFAULT_PORTS["download"], ge=0, le=65535, description="TCP port; 0 takes a free one.")
    download_roots: tuple[Path, ...] = Field(
        (), description="Folders that downloads may be written beneath; <data-dir>/downloads when unset."
    )
    import_roots: tuple[Path, ...] = Field(
        (), description="Folders that local sources may be taken from, besides the download roots."
    )
    allow_any_import_root: bool = Field(
        False, description="Let the owner of the suite, and nobody else, take local sources from anywhere."
    )
    allow_private_addresses: bool = Field(
        False,
        description="Ask private, loopback and link-local addresses too; for closed networks.",
    )
    max_parallel_downloads: int = Field(5, ge=1, le=100, description="Downloads at once, of all queues.")
    max_jobs: int = Field(100_000, ge=1, description="Jobs kept that have not ended; more are QUEUE_FULL.")
    checkpoint_bytes: int = Field(
        16 << 20, ge=64 << 10, description="Bytes after which progress is made durable, at the latest."
    )
    checkpoint_s: float = Field(1.0, gt=0, description="Seconds after which progress is made durable.")
    connect_timeout_s: float = Field(10, gt=0, description="Seconds to connect to one address.")
    headers_timeout_s: float = Field(30, gt=0, description="Seconds until an answer's headers are complete.")
    stall_timeout_s: float = Field(30, gt=0, description="Seconds without (or with hardly any) bytes.")
    min_bytes_per_second: int = Field(
        1024, ge=0, description="Rate below which a connection counts as stalled, over stall_timeout_s."
    )
    max_attempts: int = Field(8, ge=1, description="Tries in a row that get no further, before a job fails.")
    retry_base_s: float = Field(1.0, ge=0, description="Delay before the first retry; doubles with each one.")
    retry_cap_s: float = Field(60.0, ge=0, description="Longest delay by back-off alone.")
    max_retry_after_s: float = Field(600.0, ge=0, description="Longest delay that a source may ask for.")
    max_redirects: int = Field(10, ge=0, le=50, description="Redirects followed for one request.")
    max_unsized_bytes: int = Field(
        64 << 30, ge=1, description="Most bytes taken of a source that does not say how many it sends."
    )
    disk_reserve_bytes: int = Field(64 << 20, ge=0, description="Room that downloads leave on a file system.")

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where files may be written, absolute: the download roots, and the models for their staging."""
        roots = self.download_roots or (self.data_dir / DOWNLOADS,)
        return tuple(dict.fromkeys((*(Path(root).expanduser().resolve() for root in roots), self.models)))

    @property
    def umask(self) -> int:
        """See modelkeep_common.modes."""
        return umask_for(self.data_dir, self.roots)
