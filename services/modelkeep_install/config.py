"""The settings of InstallService."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from modelkeep.defaults import DEFAULT_ADDRESSES, DEFAULT_PORTS
from modelkeep_common.modes import umask_for
from modelkeep_common.settings import ServiceSettings
from modelkeep_common.urls import authority_of


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

    hub_mirrors: tuple[str, ...] = Field(
        (),
        description="Hosts, with ports if need be, whose addresses name repositories as Hugging Face's do; "
        "HF_ENDPOINT's is one.",
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

    autoimport_dirs: tuple[Path, ...] = Field(
        (),
        description="Folders whose models a sync registers where they lie, besides those in models_dir; "
        "they are import roots as well.",
    )
    sync_at_start: bool = Field(
        True, description="Whether models_dir and autoimport_dirs are synced in the background at each start."
    )

    @property
    def autoimport(self) -> tuple[Path, ...]:
        """The folders whose models are registered by themselves, absolute and without links."""
        return tuple(Path(folder).expanduser().resolve() for folder in self.autoimport_dirs)

    @property
    def mirrors(self) -> frozenset[str]:
        """The mirrors of Hugging Face, each as an address has it."""
        endpoint = authority_of(os.environ.get("HF_ENDPOINT", ""))
        return frozenset(host.lower() for host in (*self.hub_mirrors, endpoint) if host)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The import roots for every caller, absolute."""
        named = tuple(Path(root).expanduser().resolve() for root in self.import_roots)
        return tuple(dict.fromkeys((*named, *self.autoimport)))

    @property
    def owner_roots(self) -> tuple[Path, ...]:
        """The import roots that are for the owner alone."""
        return (Path("/"),) if self.allow_any_import_root else ()

    @property
    def umask(self) -> int:
        """See modelkeep_common.modes."""
        return umask_for(self.data_dir, [self.models])
