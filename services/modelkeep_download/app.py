"""Wiring: what a DownloadService process is made of, and in which order it opens and closes."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modelkeep.defaults import EXIT_CONFIG
from modelkeep.download.v1 import download_pb2, download_service_pb2_grpc
from modelkeep.private import check_private
from modelkeep.renewed import UnusableError, reading
from modelkeep_common.paths import AllowedRoots, lock_root
from modelkeep_common.serving import Service
from modelkeep_common.sqlite import Database
from modelkeep_common.startup import StartupError
from modelkeep_common.threads import in_thread
from modelkeep_common.watch import WatchHub
from modelkeep_common.watch.sqlite_log import SqliteLog
from modelkeep_download import convert
from modelkeep_download.config import DownloadSettings
from modelkeep_download.domain.job import Job, SourceKind
from modelkeep_download.domain.limits import Limits as JobLimits
from modelkeep_download.engine.downloads import Downloads
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.hosts import Hosts
from modelkeep_download.engine.hub_cache import HubCache
from modelkeep_download.engine.hub_home import hub_cache
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.proxies import proxies_of
from modelkeep_download.engine.runner import LoopClock, Runner, Source
from modelkeep_download.engine.scheduler import Scheduler
from modelkeep_download.engine.tls import default_tls
from modelkeep_download.engine.tokens import SourceTokens
from modelkeep_download.engine.transfer import Transfer
from modelkeep_download.engine.transport import HttpTransport, Limits, Session
from modelkeep_download.limits import stored_limits
from modelkeep_download.migrations import MIGRATIONS
from modelkeep_download.resolve.address import AddressResolver
from modelkeep_download.resolve.civitai import CivitaiResolver
from modelkeep_download.resolve.guarded import guarded_client
from modelkeep_download.resolve.hugging_face import HuggingFaceResolver, endpoint_of
from modelkeep_download.resolve.path import PathResolver
from modelkeep_download.resolve.plans import Resolver
from modelkeep_download.resolve.resolving import Resolving
from modelkeep_download.service import DownloadServicer
from modelkeep_download.sources.local import LocalSource
from modelkeep_download.sources.present import Present
from modelkeep_download.sources.several import SeveralSource
from modelkeep_download.sources.url import Effort, HttpTransfer, UrlSource
from modelkeep_download.store import COLLECTION, JobStore, StoredJobs, resource_id


class DownloadApplication:
    """One DownloadService, from its settings.

    Args:
        settings: What it is told.
        transfer: Another way to fetch URLs than the built-in one; see `Transfer`.
        session: Another way to ask them than connections of the service's own; see `Session` and
            `modelkeep_download.engine.sessions`.
        resolvers: Who is asked before the built-in ones what a source comes to; see `Resolver`.
    """

    full_names = ("modelkeep.download.v1.DownloadService",)

    def __init__(
        self,
        settings: DownloadSettings,
        *,
        transfer: Transfer | None = None,
        session: Session | None = None,
        resolvers: Sequence[Resolver] = (),
    ) -> None:
        self._settings = settings
        self._resolvers = resolvers
        self._session = session or http_transport(settings)
        self._proxied = isinstance(self._session, HttpTransport) and bool(self._session.proxies)
        self._transfer, self._cache = transfer, hub_cache_of(settings)
        self._hub = hub_endpoint(settings)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Lock the roots, open the store, and go on with the jobs in it."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as held:
            places, root_ids = await held.enter_async_context(in_thread(self._take_roots()))
            db = await Database.open(
                settings.database,
                MIGRATIONS,
                "download",
                reserve_bytes=settings.reserve_bytes,
                limits=settings.store_limits,
            )
            held.push_async_callback(db.close)
            held.callback(self._session.close)
            client = guarded_client(self._session)
            held.push_async_callback(client.aclose)
            hub = WatchHub[download_pb2.Download](SqliteLog(db, COLLECTION), parse=convert.parse_job)

            def encode(job: Job) -> bytes:
                if scheduler.writes(job):
                    hub.supersede(resource_id(job.id))
                # A change tells the bytes of its moment as progress does, or they would seem to go back.
                return convert.encode_job(scheduler.live(job))

            def progress(job: Job) -> None:
                hub.progress(resource_id(job.id), convert.job_to_proto(job))

            store = JobStore(encode)
            local = LocalSource(
                places.sources,
                checkpoint_bytes=settings.checkpoint_bytes,
                checkpoint_s=settings.checkpoint_s,
            )
            present, hosts = Present(self._cache, places.sources), Hosts()
            transfer = self._transfer or http_transfer(settings, self._session, present, hosts)
            sources: dict[SourceKind, Source] = {
                SourceKind.URL: UrlSource(transfer),
                SourceKind.PATH: local,
                SourceKind.FILES: SeveralSource(transfer),
            }
            runner = Runner(sources, places.roots.roots, settings.max_parallel_downloads)
            heed = partial(_heed, hosts)
            scheduler = Scheduler(StoredJobs(db, store), runner, LoopClock(), settings, progress, heed)
            held.push_async_callback(scheduler.drain)
            particular = [
                *self._resolvers,
                CivitaiResolver(client, self._session, settings.civitai_endpoint),
            ]
            resolving = resolving_of(places, self._session, self._hub, self._cache, particular)
            downloads = Downloads(
                db,
                store,
                scheduler,
                places=places,
                resolving=resolving,
                max_jobs=settings.max_jobs,
                tokens=self._session.tokens,
            )
            await scheduler.open(await db.read(stored_limits))
            servicer = DownloadServicer(downloads, hub, resolving)

            async def drain() -> None:
                """End the watches; stop the transfers with their bytes durable."""
                await hub.drain()
                await scheduler.drain()

            yield Service(
                register=partial(download_service_pb2_grpc.add_DownloadServiceServicer_to_server, servicer),
                info=partial(self._info, db.store_id, str(places.models_dir), root_ids),
                drain=drain,
            )

    @contextlib.contextmanager
    def _take_roots(self) -> Iterator[tuple[Places, Mapping[str, str]]]:
        """Lock the roots; where downloads may go, and where local sources may lie, and the roots' ids."""
        settings = self._settings
        roots, data_dir = settings.roots, settings.data_dir
        places = Places(
            AllowedRoots(roots, data_dir=data_dir, models=roots, setting="download_roots"),
            AllowedRoots(
                [*settings.import_roots, *roots],
                data_dir=data_dir,
                models=roots,
                for_owner=(Path("/"),) if settings.allow_any_import_root else (),
                setting="import_roots",
            ),
            settings.models,
        )
        with contextlib.ExitStack() as held:
            yield places, {str(root): held.enter_context(lock_root(root, role="download")) for root in roots}

    def _info(self, store_id: str, models: str, root_ids: Mapping[str, str]) -> Mapping[str, Any]:
        settings = self._settings
        return {
            "store_id": store_id,
            "features": [
                "http",
                "hugging-face",
                "local-path",
                "files",
                "remote-source",
                "civitai",
                "sha256",
                "resume",
                "sqlite",
                *(["proxy"] if self._proxied else []),
            ],
            "source_tokens": partial(_kept_tokens, self._session.tokens),
            "limits": {
                "max_parallel_downloads": settings.max_parallel_downloads,
                "max_bytes_per_second": settings.max_bytes_per_second,
                "max_jobs": settings.max_jobs,
                "checkpoint_bytes": settings.checkpoint_bytes,
                "max_unsized_bytes": settings.max_unsized_bytes,
                "disk_reserve_bytes": settings.disk_reserve_bytes,
            },
            "roots": [
                *(
                    {"purpose": "models" if path == models else "download", "path": path, "root_id": root_id}
                    for path, root_id in root_ids.items()
                ),
                *({"purpose": "import", "path": str(root)} for root in settings.import_roots),
            ],
        }


def _kept_tokens(tokens: SourceTokens) -> Mapping[str, Any]:
    """Which hosts there are tokens for, without these; may read a file."""
    kept = [{"host": host, "kept_in": kind.value} for host, kind in tokens.kept()]
    return {"tokens": kept, "file": str(tokens.file or "")}


def limits_of(settings: DownloadSettings) -> Limits:
    """How long an answer may take."""
    return Limits(
        connect_timeout_s=settings.connect_timeout_s,
        headers_timeout_s=settings.headers_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
        min_bytes_per_second=settings.min_bytes_per_second,
        max_redirects=settings.max_redirects,
    )


def http_transport(settings: DownloadSettings) -> HttpTransport:
    """The built-in way to ask URLs.

    Raises:
        StartupError: What is said of proxies or authorities cannot be used.
    """
    try:
        proxies = proxies_of(_proxy(settings), settings.no_proxy, os.environ)
    except ValueError as error:  # of the environment or of a file: the setting is checked as it is read
        raise StartupError(EXIT_CONFIG, str(error)) from None
    guard = AddressGuard(allow_private=settings.allow_private_addresses)
    return HttpTransport(
        guard,
        limits_of(settings),
        tls=_tls(settings.tls_ca_file),
        proxies=proxies,
        tokens=tokens_of(settings),
    )


def _proxy(settings: DownloadSettings) -> str:
    path = settings.proxy_file
    if path is None:
        return settings.proxy.get_secret_value()
    try:
        address = reading(path, "proxy_file", check_private).decode("utf-8", "replace").strip()
    except UnusableError as error:
        raise StartupError(EXIT_CONFIG, str(error)) from None
    if not address:
        raise StartupError(EXIT_CONFIG, f"proxy_file {path} is empty: write the proxy's address into it")
    return address


def tokens_of(settings: DownloadSettings) -> SourceTokens:
    """The tokens that are kept for sources."""
    hub = hub_endpoint(settings)
    return SourceTokens(settings.tokens_by_host, hub=hub, environ=os.environ, file=settings.tokens_file)


def _tls(ca_file: Path | None) -> Callable[[], ssl.SSLContext]:
    if ca_file is None:
        return default_tls
    try:
        context = ssl.create_default_context(cafile=ca_file.expanduser())
    except ssl.SSLError:
        raise StartupError(
            EXIT_CONFIG, f"tls_ca_file {ca_file} holds no certificate: name a PEM file of authorities"
        ) from None
    except OSError as error:
        raise StartupError(EXIT_CONFIG, f"cannot read tls_ca_file {ca_file}: {error.strerror}") from None
    return lambda: context


def hub_endpoint(settings: DownloadSettings) -> str:
    """The address of Hugging Face, or of its mirror.

    Raises:
        StartupError: The environment names one that cannot be used.
    """
    try:
        return endpoint_of(settings.hub_endpoint, os.environ)
    except ValueError as error:  # of the environment: the setting itself is checked as it is read
        raise StartupError(EXIT_CONFIG, f"HF_ENDPOINT: {error}") from None


def resolving_of(
    places: Places, session: Session, hub: str, cache: HubCache, first: Sequence[Resolver] = ()
) -> Resolving:
    """All kinds of sources, the particular ones first; before them `first`."""
    allowed = partial(places.local_source, copy=True)
    own: list[Resolver] = [PathResolver(allowed), HuggingFaceResolver(session, hub), AddressResolver(session)]
    return Resolving([*first, *own], cache)


def hub_cache_of(settings: DownloadSettings) -> HubCache:
    """The cache of the hub's own client."""
    folder = settings.hub_cache or (hub_cache(os.environ) if settings.hub_cache is None else None)
    return HubCache(folder.expanduser().absolute() if folder else None)


def http_transfer(
    settings: DownloadSettings, session: Session, present: Present, hosts: Hosts
) -> HttpTransfer:
    """The built-in way to fetch what URLs serve."""
    effort = Effort(
        checkpoint_bytes=settings.checkpoint_bytes,
        checkpoint_s=settings.checkpoint_s,
        max_unsized_bytes=settings.max_unsized_bytes,
    )
    return HttpTransfer(session, hosts, effort, present)


def _heed(hosts: Hosts, limits: JobLimits) -> None:
    """Let transfers have the connections that count from now on."""
    numbers = (limits.max_connections_per_host, limits.max_connections, limits.max_connections_per_file)
    per_host, in_all, per_file = (most or 1 for most in numbers)
    hosts.limit(per_host, in_all, per_file)
