"""Wiring: what a LoaderService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from modelkeep.defaults import EXIT_CONFIG, EXIT_NOT_WRITABLE
from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError
from modelkeep.loader.v1 import loader_service_pb2_grpc, resident_pb2
from modelkeep_common.paths import AllowedRoots, ensure_marker
from modelkeep_common.peers import Address, peer_address
from modelkeep_common.serving import Service
from modelkeep_common.startup import StartupError
from modelkeep_loader.accelerators import Accelerators
from modelkeep_loader.config import LoaderSettings
from modelkeep_loader.convert import leases, residents
from modelkeep_loader.direct import FileFetches
from modelkeep_loader.domain.adoption import Adoption
from modelkeep_loader.domain.cache import Cache
from modelkeep_loader.domain.checkpoints import CONFIGS, Originals
from modelkeep_loader.domain.components import CPU, BuildProgress, Plan, Resident, Stage
from modelkeep_loader.domain.devices import Devices
from modelkeep_loader.domain.digests import Digester
from modelkeep_loader.domain.find import Finder
from modelkeep_loader.domain.keeping import Keeper
from modelkeep_loader.domain.lease import Lease
from modelkeep_loader.domain.ledger import Ledger
from modelkeep_loader.domain.lending import Lending
from modelkeep_loader.domain.paths import Paths
from modelkeep_loader.domain.pins import Pins
from modelkeep_loader.domain.plan import Planner
from modelkeep_loader.domain.promote import Salvage
from modelkeep_loader.domain.records import FollowedRecords
from modelkeep_loader.domain.tier import Tier, TierName
from modelkeep_loader.fd_socket import DescriptorServer, socket_folder
from modelkeep_loader.follow import RemovalFollower
from modelkeep_loader.helper import BuildLimits, Helper, Opens
from modelkeep_loader.keepers.choose import keeper_of
from modelkeep_loader.localize import DiskTier, Localizer, NearBuilder
from modelkeep_loader.peers import RecordClient
from modelkeep_loader.processes import DeathWatch, host_boot_id, process_mark
from modelkeep_loader.service import LoaderServicer
from modelkeep_loader.store import LeaseJournal, ResidentHistory
from modelkeep_loader.tiers.disk import CacheFolder, OpensCopies
from modelkeep_loader.tiers.mounts import is_far, remote_kind
from modelkeep_loader.tiers.paths import PathFolder
from modelkeep_loader.tiers.ram import take_zombie
from modelkeep_loader.tiers.vram import DeviceTiers


class OpenRecords(FollowedRecords, Protocol):
    """Where records come from, until it is closed."""

    async def close(self) -> None:
        """Ask no more."""
        ...


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenLoader(Service):
    """A LoaderService that is open, and what it is made of."""

    helper: Helper
    lending: Lending
    descriptors: DescriptorServer
    follower: RemovalFollower
    warming: asyncio.Task[None] | None


@dataclass(frozen=True)
class _Surroundings:
    """What has to be asked of the file system at the start."""

    models_root: Path
    import_roots: list[Path]
    budget_bytes: int
    socket_folder: Path
    roots: AllowedRoots
    originals: Originals
    openers: Opens
    copies: CacheFolder | None
    disk_budget_bytes: int
    boot_id: str
    record: Address


class LoaderApplication:
    """One LoaderService, from its settings."""

    full_names = ("modelkeep.loader.v1.LoaderService",)

    def __init__(self, settings: LoaderSettings) -> None:
        self._settings = settings
        self._known_root_id = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[OpenLoader]:
        """Take the descriptor socket, begin a new history, and be ready to lend."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as held:
            around = await asyncio.to_thread(self._look_around)
            budget = around.budget_bytes
            records = self._open_records(around.record)
            held.push_async_callback(records.close)
            limits = BuildLimits(settings.build_timeout_s, settings.build_memory_bytes)
            helper = Helper(around.openers, idle_s=settings.helper_idle_s, limits=limits)
            held.push_async_callback(helper.close)

            history = ResidentHistory(settings.store_limits)
            journal = LeaseJournal(settings.store_limits)

            def changed(resident: Resident, gone: bool) -> None:
                history.changed(resident.id, None if gone else resident.stage, partial(_news_of, resident))
                lending.gauge.moved()

            def progressed(resident: Resident) -> None:
                history.progress(residents.resident_message(resident))

            finder = Finder(around.models_root, self._root_id, around.roots, around.originals)
            digester = Digester(finder.files.open)
            keeper = self._open_keeper(around)
            ledger = Ledger(keeper, process_mark, partial(digester.known, with_sha256=False))

            def changed_in_memory(resident: Resident, gone: bool) -> None:
                ledger.resident(resident, gone)
                changed(resident, gone)

            def changed_in_ram(resident: Resident, gone: bool) -> None:
                device_tiers.ram_changed(resident, gone)
                changed_in_memory(resident, gone)

            def lease_changed(lease: Lease) -> None:
                ledger.lease(lease)
                journal.note(leases.lease_message(lease))

            ram = Tier(
                TierName.RAM,
                budget_bytes=budget,
                keep_alive_s=settings.keep_alive_s,
                on_change=changed_in_ram,
                on_zombie=ledger.zombie,
                pins=Pins(partial(ledger.pins, CPU)),
            )
            disk: Localizer | None = None
            if around.copies is not None:
                disk = Localizer(
                    around.copies,
                    DiskTier(TierName.DISK, budget_bytes=around.disk_budget_bytes, on_change=changed),
                    digester,
                    finder.files.open,
                    is_far=is_far if settings.localize == "auto" else lambda path: True,
                    must=settings.localize == "always",
                    on_progress=progressed,
                )
                held.push_async_callback(disk.close)
            salvage = Salvage(NearBuilder(helper, disk) if disk is not None else helper)
            cache = Cache(salvage, ram, on_progress=progressed)
            accelerators = await _open_accelerators(settings.accelerator, held)
            device_tiers = DeviceTiers(
                accelerators,
                cache,
                salvage,
                budget_bytes=settings.vram_budget_bytes,
                default=settings.device,
                fetches=partial(
                    FileFetches, helper, disk.near if disk is not None else _where_it_lies, accelerators
                ),
                on_pins=ledger.pins,
                on_progress=progressed,
                on_change=changed_in_memory,
                keep_alive_s=settings.keep_alive_s,
            )
            deaths = DeathWatch(lambda pid: lending.leases.process_died(pid))
            held.callback(deaths.close)
            paths = None
            if settings.path_dir is not None:
                paths = Paths(await asyncio.to_thread(PathFolder, settings.path_dir), ram)
            lending = Lending(
                Planner(
                    records,
                    finder,
                    budget_bytes=max(budget, *(d.tier.most_bytes for d in device_tiers.devices.all), 0),
                    digester=digester,
                    localizer=disk,
                    precision=settings.precision,
                ),
                cache,
                disk=disk,
                devices=device_tiers.devices,
                offers=device_tiers,
                boot_id=around.boot_id,
                on_lease=lease_changed,
                paths=paths,
                watch_process=deaths.watch_number,
                detach_grace_s=settings.detach_grace_s,
                ticket_valid_s=settings.ticket_valid_s,
                max_leases=settings.max_leases,
                max_per_principal=settings.max_leases_per_principal,
                keeps=settings.keep_on_stop,
            )
            # The socket's lock comes first: it is what keeps a second loader off this data folder.
            descriptors = DescriptorServer(
                around.socket_folder, lending, deaths, is_runtime=settings.descriptor_dir is None
            )
            await descriptors.open()
            held.push_async_callback(descriptors.close)
            # Under that lock, too, and at the end before it is let go of: a keeper has one loader.
            held.push_async_exit(self._end_of(keeper))
            held.push_async_callback(lending.close)
            if disk is not None:
                await disk.open()
            await Adoption(
                keeper,
                lending.caches,
                lending.leases,
                read=device_tiers.take_kept,
                read_zombie=take_zombie,
                mark_of=process_mark,
                learn=digester.note,
                watch_process=deaths.watch_number,
                grace_s=settings.readopt_grace_s,
            ).run()
            await lending.open()
            follower = RemovalFollower(records, lending)
            follower.open()
            held.push_async_callback(follower.close)
            servicer = LoaderServicer(lending, history, journal, str(descriptors.path))

            async def drain() -> None:
                """End holds and watches. What workers have mapped stays valid."""
                lending.drain()
                await asyncio.gather(history.hub.drain(), journal.hub.drain())

            yield OpenLoader(
                register=partial(loader_service_pb2_grpc.add_LoaderServiceServicer_to_server, servicer),
                info=partial(self._info, around, history.store_id, device_tiers.devices),
                drain=drain,
                helper=helper,
                lending=lending,
                descriptors=descriptors,
                follower=follower,
                warming=asyncio.create_task(helper.warm()) if settings.warm_helper else None,
            )

    def _open_keeper(self, around: _Surroundings) -> Keeper:
        """What outlives this loader."""
        return keeper_of(self._settings, around.socket_folder)

    def _end_of(self, keeper: Keeper) -> Callable[..., Awaitable[None]]:
        """Closes a keeper; a loader that failed leaves to the next one what it found."""

        async def close(kind: type[BaseException] | None, *_: object) -> None:
            await keeper.close(keep=self._settings.keep_on_stop or kind is not None)

        return close

    def _open_records(self, address: Address) -> OpenRecords:
        """Where records come from."""
        return RecordClient(address)

    def _info(self, around: _Surroundings, store_id: str, devices: Devices) -> Mapping[str, Any]:
        settings, usable = self._settings, devices.usable
        return {
            "store_id": store_id,
            "features": [
                *("memfd", "descriptors", "cast"),
                *(["paths"] if settings.path_dir else []),
                *(["disk"] if around.copies is not None else []),
                *(["vram"] if usable else []),
            ],
            "limits": {
                "ram_budget_bytes": around.budget_bytes,
                **({"disk_budget_bytes": around.disk_budget_bytes} if around.copies is not None else {}),
                "max_leases": settings.max_leases,
                "max_leases_per_principal": settings.max_leases_per_principal,
            },
            "roots": [
                {"purpose": "models", "path": str(around.models_root), "root_id": self._known_root_id},
                *({"purpose": "import", "path": str(root)} for root in around.import_roots),
            ],
            "devices": [CPU, *(device.name for device in usable)],
        }

    def _look_around(self) -> _Surroundings:
        settings = self._settings
        self._root_id()
        models_root, *import_roots = settings.roots
        configs = settings.data_dir.absolute() / CONFIGS
        roots = AllowedRoots(
            settings.roots, data_dir=settings.data_dir, models=[models_root], setting="import_roots"
        )
        copies = self._copies()
        return _Surroundings(
            models_root,
            import_roots,
            settings.ram_budget,
            socket_folder(settings.service_dir, settings.descriptor_dir),
            roots,
            Originals(
                settings.data_dir.absolute(),
                AllowedRoots(
                    [*settings.roots, configs],
                    data_dir=settings.data_dir,
                    models=[models_root, configs],
                    setting="import_roots",
                ),
            ),
            OpensCopies(roots, copies) if copies is not None else roots,
            copies,
            settings.disk_budget_bytes or (copies.room() // 2 if copies is not None else 0),
            host_boot_id(),
            peer_address("record", settings.record_address, settings),
        )

    def _copies(self) -> CacheFolder | None:
        """In a thread: the folder of copies; None where there is to be none."""
        settings = self._settings
        if settings.localize == "never":
            return None
        path = (settings.cache_dir or settings.service_dir / "copies").expanduser().absolute()
        folder = CacheFolder(path)
        try:
            if settings.cache_dir is not None:
                folder.make()
            folder.open()
            kind = remote_kind(path)
        except OSError as error:
            raise StartupError(EXIT_NOT_WRITABLE, f"cache_dir: cannot use {path}: {error.strerror}") from None
        if kind and settings.localize == "auto":
            _log.warning("cache_dir %s lies on %s itself: nothing is copied there", path, kind)
            return None
        return folder

    def _root_id(self) -> str | None:
        """In a thread: the id of the models folder, which may be made or mounted after the loader's start."""
        try:
            self._known_root_id = ensure_marker(self._settings.roots[0], create=False) or ""
        except StartupError:
            self._known_root_id = ""  # records that name a root will be refused
        return self._known_root_id or None


@contextlib.asynccontextmanager
async def _where_it_lies(plan: Plan, progress: BuildProgress) -> AsyncIterator[Plan]:
    """A plan whose files are read where they are, without a disk tier."""
    yield plan


async def _open_accelerators(spec: str, held: contextlib.AsyncExitStack) -> Accelerators:
    """The accelerators that a setting names.

    Raises:
        StartupError: It names none, or such as cannot be used here.
    """
    try:
        accelerators = Accelerators(spec)
        held.push_async_callback(accelerators.close)
        await accelerators.open()
    except (ValueError, DeviceGoneError, DeviceFailedError) as error:
        raise StartupError(EXIT_CONFIG, f"accelerator: {error}") from None
    return accelerators


def _news_of(resident: Resident) -> resident_pb2.Resident:
    retry_in = None
    if resident.stage is Stage.FAILED:
        retry_in = max(0.0, resident.retry_at - time.monotonic())
    return residents.resident_message(resident, retry_in=retry_in)
