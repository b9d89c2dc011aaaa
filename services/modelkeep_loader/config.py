"""Settings of LoaderService."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from modelkeep.defaults import DEFAULT_ADDRESSES, DEFAULT_PORTS
from modelkeep.devices.specs import Spec
from modelkeep_common.settings import ServiceSettings

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


class LoaderSettings(ServiceSettings):
    """What LoaderService can be told, besides what every service can."""

    service: ClassVar[str] = "loader"

    port: int = Field(DEFAULT_PORTS["loader"], ge=0, le=65535, description="TCP port; 0 takes a free one.")
    record_address: str = Field(
        DEFAULT_ADDRESSES["record"], description="RecordService: host:port, or unix:path."
    )
    import_roots: tuple[Path, ...] = Field(
        (), description="Folders that models registered in place may lie in, besides models_dir."
    )
    allow_any_import_root: bool = Field(
        False, description="Let models registered in place lie anywhere on this host."
    )
    ram_budget_bytes: int = Field(
        0,
        ge=0,
        le=1 << 62,
        description="Bytes of RAM for weights; 0 takes half of the host's or the container's memory.",
    )
    accelerator: str = Field(
        "auto",
        description="Accelerators that components can be loaded to: auto (CUDA, where it can be used), cuda "
        "(or the loader does not start), none, or simulated ones in this host's memory, such as sim:2x64MiB.",
    )
    vram_budget_bytes: int = Field(
        0,
        ge=0,
        le=1 << 62,
        description="Bytes of each accelerator's memory for weights; 0 takes nine tenths of it. What other "
        "processes leave of it is a bound as well.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|(cuda|sim)(:[0-9]{1,3})?)$",
        description='Device that components go to where their caller says "auto" or nothing: auto (an '
        "accelerator, where there is one), cpu, cuda, or one such as cuda:1.",
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description='Precision that components are lent in where their caller says "auto" or nothing: auto '
        "is that of the files.",
    )
    keep_alive_s: float = Field(
        -1.0,
        description="Seconds that a component is kept that nobody uses, where its caller does not say; 0 "
        "drops it with its last lease, a negative number keeps it for as long as there is room.",
    )
    localize: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Which models are copied to cache_dir before they are read: auto takes those on network "
        "file systems and on ones that are mounted read-only, always takes all, never ends the disk tier.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder on a local disk for copies of weight files, and for nothing else; several "
        "loaders may share one. In the service's own folder when unset.",
    )
    disk_budget_bytes: int = Field(
        0,
        ge=0,
        le=1 << 62,
        description="Bytes that copies may take; 0 takes half of what is free there, copies included.",
    )
    descriptor_dir: Path | None = Field(
        None, description="Private folder of the descriptor socket; a short one of the user's when unset."
    )
    path_dir: Path | None = Field(
        None,
        description="Private folder, best on a tmpfs, for files of components that sandboxes mount read-only "
        "(DELIVERY_PATH); nothing is delivered by path when unset.",
    )
    keeper: Literal["auto", "process", "systemd", "none"] = Field(
        "auto",
        description="Who keeps weights and leases should this process be killed: a process of its own, "
        "systemd (FileDescriptorStoreMax=), or nobody; auto takes systemd if that offers, else a process.",
    )
    keep_s: float = Field(
        60.0, ge=0, description="Seconds that a keeper waits for the next loader, and then gives all back."
    )
    keep_on_stop: bool = Field(
        False, description="Let the next loader find everything after a clean stop, too."
    )
    keeper_socket: Path | None = Field(
        None,
        description="Socket of a keeper that is started elsewhere (modelkeep-keeper), and outlives what this "
        "process runs in; an own one is started when unset.",
    )
    ticket_valid_s: float = Field(
        10.0, gt=0, description="Seconds that a ticket for descriptors is good for."
    )
    detach_grace_s: float = Field(
        5.0, ge=0, description="Seconds that a lease whose holder went away can be taken up again."
    )
    readopt_grace_s: float = Field(
        10.0,
        ge=0,
        description="Seconds in which the holder of a lease can take it up again at the loader that follows "
        "one that was killed.",
    )
    max_leases: int = Field(4096, ge=1, le=1_000_000, description="Leases that are given in all.")
    max_leases_per_principal: int = Field(
        64, ge=1, le=1_000_000, description="Leases that are given to one caller, as its token names it."
    )
    helper_idle_s: float = Field(
        300.0, gt=0, description="Seconds without work after which the helper process is ended."
    )
    build_timeout_s: float = Field(
        900.0, gt=0, description="Seconds that the build of a component may take before its process is ended."
    )
    build_memory_bytes: int = Field(
        0,
        ge=0,
        le=1 << 62,
        description="Bytes that a build may take besides the component that it makes; 0 takes 1 GiB and "
        "twice the size of the component or of its files.",
    )
    warm_helper: bool = Field(
        False, description="Start the helper process with the service, so that the first load is quicker."
    )

    @field_validator("accelerator")
    @classmethod
    def _names_accelerators(cls, text: str) -> str:
        Spec.parse(text)
        return text

    @property
    def roots(self) -> tuple[Path, ...]:
        """Everything that may be read."""
        imports = (Path("/"),) if self.allow_any_import_root else self.import_roots
        return (self.models, *(Path(root).expanduser().absolute() for root in imports))

    @property
    def ram_budget(self) -> int:
        """The budget in force, in bytes."""
        return self.ram_budget_bytes or available_memory() // 2


def available_memory() -> int:
    """Bytes of memory that this process may use: the host's, or less where a cgroup says so."""
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [host]
    for path in _limit_files():
        try:
            text = path.read_text("ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            limits.append(int(text))
    return min(limits)


def _limit_files() -> Iterator[Path]:
    """Where the limits of this process's group stand, and of every group above it; cgroups(7)."""
    try:
        lines = _OWN_CGROUPS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, place = line.split(":", 2)
        if not controllers:
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the group may go by its name outside: then only the root is found here.
        folder = root / place.lstrip("/")
        yield from (above / name for above in (folder, *folder.parents) if above.is_relative_to(root))
