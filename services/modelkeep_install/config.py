"""The settings of InstallService."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from modelkeep.defaults import DEFAULT_ADDRESSES, DEFAULT_PORTS
from modelkeep_common.modes import umask_for
from modelkeep_common.settings import ServiceSettings


class InstallSettings(ServiceSettings):
    """What InstallService can be told; environment ``MODELKEEP_INSTALL_*``."""

    service: ClassVar[str] = "install"

    port: int = Field(DEFAULT_PORTS["install"], ge=0, le=65535, description="TCP port; 0 takes a free one.")
    record_address: str = Field(DEFAULT_ADDRESSES["record"], description="Address of RecordService.")
    download_address: str = Field(DEFAULT_ADDRESSES["download"], description="Address of DownloadService.")
    loader_address: str = Field(
        "",
        description="Address of LoaderService, asked who uses a model before it is deleted; none when unset.",
    )
    import_roots: tuple[Path, ...] = Field(
        (), description="Folders that local models may be taken from, besides models_dir; none when unset."
    )
    allow_any_import_root: bool = Field(
        False,
        description="Let the owner of the suite, and nobody else, take local models from anywhere.",
    )

    disk_reserve_bytes: int = Field(
        16 << 20, ge=0, description="Room that copies leave on the file system of models_dir."
    )

    check_files_seconds: float = Field(
        2,
        ge=0,
        le=86_400,
        description="Seconds between two looks whether models are where their records say; 0 never looks.",
    )

    @property
    def roots(self) -> tuple[Path, ...]:
        """The import roots for every caller, absolute."""
        return tuple(Path(root).expanduser().resolve() for root in self.import_roots)

    @property
    def owner_roots(self) -> tuple[Path, ...]:
        """The import roots that are for the owner alone."""
        return (Path("/"),) if self.allow_any_import_root else ()

    @property
    def umask(self) -> int:
        """See modelkeep_common.modes."""
        return umask_for(self.data_dir, [self.models])
