"""The blocking client: the asyncio client behind a thread, method by method."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from modelkeep.client._async_client import AsyncClient
from modelkeep.client._download_jobs import DownloadEventHandler, DownloadJobBase
from modelkeep.client._downloads import AsyncDownloadQueue
from modelkeep.client._installs import AsyncModelInstall, EventBus
from modelkeep.client._loader import AsyncModelLoader
from modelkeep.client._portal import Facade, Lifeline, Portal, blocking, close_inside, iterating
from modelkeep.client._records import AsyncModelRecordStore
from modelkeep.defaults import DEFAULT_TIMEOUT_S, ServiceName
from modelkeep.rpc import Address


class ModelRecordStore(Facade[AsyncModelRecordStore]):
    """What models there are; see :class:`modelkeep.client.AsyncModelRecordStore`."""

    get_model = blocking(AsyncModelRecordStore.get_model)
    exists = blocking(AsyncModelRecordStore.exists)
    get_models = blocking(AsyncModelRecordStore.get_models)
    search_by_path = blocking(AsyncModelRecordStore.search_by_path)
    search_by_name = blocking(AsyncModelRecordStore.search_by_name)
    search_by_tag = blocking(AsyncModelRecordStore.search_by_tag)
    all_models = blocking(AsyncModelRecordStore.all_models)
    model_info_by_name = blocking(AsyncModelRecordStore.model_info_by_name)
    list_models = blocking(AsyncModelRecordStore.list_models)
    list_files = blocking(AsyncModelRecordStore.list_files)
    tags = blocking(AsyncModelRecordStore.tags)
    version = blocking(AsyncModelRecordStore.version)
    store_info = blocking(AsyncModelRecordStore.store_info)
    add_model = blocking(AsyncModelRecordStore.add_model)
    update_model = blocking(AsyncModelRecordStore.update_model)
    preview_update = blocking(AsyncModelRecordStore.preview_update)
    get_related_model_keys = blocking(AsyncModelRecordStore.get_related_model_keys)
    get_related_model_keys_batch = blocking(AsyncModelRecordStore.get_related_model_keys_batch)
    add_model_relationship = blocking(AsyncModelRecordStore.add_model_relationship)
    remove_model_relationship = blocking(AsyncModelRecordStore.remove_model_relationship)
    set_cover_image = blocking(AsyncModelRecordStore.set_cover_image)
    get_cover_image = blocking(AsyncModelRecordStore.get_cover_image)
    delete_cover_image = blocking(AsyncModelRecordStore.delete_cover_image)
    mark_models = blocking(AsyncModelRecordStore.mark_models)
    del_model = blocking(AsyncModelRecordStore.del_model)
    del_models = blocking(AsyncModelRecordStore.del_models)
    watch = iterating(AsyncModelRecordStore.watch)
    export = iterating(AsyncModelRecordStore.export)
    import_ = iterating(AsyncModelRecordStore.import_)
    back_up = blocking(AsyncModelRecordStore.back_up)


class ModelInstall(Facade[AsyncModelInstall]):
    """Any source in, a registered model out; see :class:`modelkeep.client.AsyncModelInstall`."""

    import_model = blocking(AsyncModelInstall.import_model)
    install_model = blocking(AsyncModelInstall.import_model)
    rehearse = blocking(AsyncModelInstall.rehearse)
    wait_for_installs = blocking(AsyncModelInstall.wait_for_installs)
    wait_for_job = blocking(AsyncModelInstall.wait_for_job)
    list_jobs = blocking(AsyncModelInstall.list_jobs)
    get_job = blocking(AsyncModelInstall.get_job)
    get_job_by_id = blocking(AsyncModelInstall.get_job_by_id)
    register_path = blocking(AsyncModelInstall.register_path)
    install_path = blocking(AsyncModelInstall.install_path)
    pause_job = blocking(AsyncModelInstall.pause_job)
    resume_job = blocking(AsyncModelInstall.resume_job)
    retry_job = blocking(AsyncModelInstall.retry_job)
    retry_failed_jobs = blocking(AsyncModelInstall.retry_failed_jobs)
    delete_job = blocking(AsyncModelInstall.delete_job)
    cancel_job = blocking(AsyncModelInstall.cancel_job)
    prune_jobs = blocking(AsyncModelInstall.prune_jobs)
    probe = blocking(AsyncModelInstall.probe)
    relink = blocking(AsyncModelInstall.relink)
    uninstall = blocking(AsyncModelInstall.uninstall)
    check_models = blocking(AsyncModelInstall.check_models)
    unregister = blocking(AsyncModelInstall.unregister)
    delete = blocking(AsyncModelInstall.delete)
    unconditionally_delete = blocking(AsyncModelInstall.unconditionally_delete)
    scan_directory = blocking(AsyncModelInstall.scan_directory)
    sync_to_config = blocking(AsyncModelInstall.sync_to_config)
    scan = blocking(AsyncModelInstall.scan)
    sync = blocking(AsyncModelInstall.sync)
    get_scan = blocking(AsyncModelInstall.get_scan)
    list_scans = blocking(AsyncModelInstall.list_scans)
    scan_findings = blocking(AsyncModelInstall.scan_findings)
    scan_as_of = blocking(AsyncModelInstall.scan_as_of)
    wait_for_scan = blocking(AsyncModelInstall.wait_for_scan)
    cancel_scan = blocking(AsyncModelInstall.cancel_scan)
    import_invokeai = iterating(AsyncModelInstall.import_invokeai)
    watch = iterating(AsyncModelInstall.watch)

    @property
    def event_bus(self) -> EventBus | None:
        """What gets the events; None without one."""
        return self._inner.event_bus


class DownloadQueue(Facade[AsyncDownloadQueue]):
    """A named queue of downloads; see :class:`modelkeep.client.AsyncDownloadQueue`."""

    def __init__(self, inner: AsyncDownloadQueue, portal: Portal, lifeline: Lifeline) -> None:
        super().__init__(inner, portal, lifeline)
        inner.chosen_by(self.job_class)

    def job_class(self, source: Any) -> type[DownloadJobBase]:
        """The class of job that `create_download_job` makes for a source; subclasses may override it."""
        return self._inner.job_class(source)

    create_download_job = blocking(AsyncDownloadQueue.create_download_job)
    resolve_source = blocking(AsyncDownloadQueue.resolve_source)
    submit_download_job = blocking(AsyncDownloadQueue.submit_download_job)
    list_jobs = blocking(AsyncDownloadQueue.list_jobs)
    id_to_job = blocking(AsyncDownloadQueue.id_to_job)
    prune_jobs = blocking(AsyncDownloadQueue.prune_jobs)
    join = blocking(AsyncDownloadQueue.join)
    start_job = blocking(AsyncDownloadQueue.start_job)
    pause_job = blocking(AsyncDownloadQueue.pause_job)
    cancel_job = blocking(AsyncDownloadQueue.cancel_job)
    retry_job = blocking(AsyncDownloadQueue.retry_job)
    fail_job = blocking(AsyncDownloadQueue.fail_job)
    start_all_jobs = blocking(AsyncDownloadQueue.start_all_jobs)
    pause_all_jobs = blocking(AsyncDownloadQueue.pause_all_jobs)
    cancel_all_jobs = blocking(AsyncDownloadQueue.cancel_all_jobs)
    update_job = blocking(AsyncDownloadQueue.update_job)
    get_limits = blocking(AsyncDownloadQueue.get_limits)
    set_limits = blocking(AsyncDownloadQueue.set_limits)
    watch = iterating(AsyncDownloadQueue.watch)


class ModelLoad(Facade[AsyncModelLoader]):
    """Live modules, and the loader's memory; see :class:`modelkeep.client.AsyncModelLoader`."""

    get_model = blocking(AsyncModelLoader.get_model)
    get_pipeline = blocking(AsyncModelLoader.get_pipeline)
    load = blocking(AsyncModelLoader.load)
    estimate = blocking(AsyncModelLoader.estimate)
    evict = blocking(AsyncModelLoader.evict)
    pin = blocking(AsyncModelLoader.pin)
    unpin = blocking(AsyncModelLoader.unpin)
    evict_all = blocking(AsyncModelLoader.evict_all)
    revoke = blocking(AsyncModelLoader.revoke)
    residents = blocking(AsyncModelLoader.residents)
    leases = blocking(AsyncModelLoader.leases)
    watch_leases = iterating(AsyncModelLoader.watch_leases)
    drain = iterating(AsyncModelLoader.drain)
    undrain = blocking(AsyncModelLoader.undrain)
    capacity = blocking(AsyncModelLoader.capacity)
    watch = iterating(AsyncModelLoader.watch)
    watch_capacity = iterating(AsyncModelLoader.watch_capacity)


class Client(Facade[AsyncClient]):
    """All four services under the original's names, for code without asyncio.

    ::

        with Client() as client:
            job = client.model_install.import_model("tiny-sd")
            client.model_install.wait_for_installs()
            print(job.config_out)

    The arguments are those of :class:`modelkeep.client.AsyncClient`. May be used from several threads.
    Event handlers run on a thread of the client's own, and may call the client.

    Attributes:
        model_record_store: What models there are.
        model_install: Any source in, a registered model out.
        download_queue: The default queue of downloads.
        model_loader: Live modules, and the loader's memory.
    """

    def __init__(
        self,
        *,
        record: str | None = None,
        download: str | None = None,
        install: str | None = None,
        loader: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        event_bus: EventBus | None = None,
        download_event_handlers: Sequence[DownloadEventHandler] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        inner = AsyncClient(
            record=record,
            download=download,
            install=install,
            loader=loader,
            data_dir=data_dir,
            token_file=token_file,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            event_bus=event_bus,
            download_event_handlers=download_event_handlers,
            timeout_s=timeout_s,
        )
        portal, lifeline = Portal(), Lifeline()
        super().__init__(inner, portal, lifeline)
        self.model_record_store = ModelRecordStore(inner.model_record_store, portal, lifeline)
        self.model_install = ModelInstall(inner.model_install, portal, lifeline)
        self.download_queue = DownloadQueue(inner.download_queue, portal, lifeline)
        self.model_loader = ModelLoad(inner.model_loader, portal, lifeline)
        # A program that forgets to close the client still ends without noise; one that keeps only a part
        # of the client can go on using that.
        self._finalize = weakref.finalize(lifeline, close_inside, inner.close, portal)

    server_info = blocking(AsyncClient.server_info)

    @property
    def addresses(self) -> Mapping[ServiceName, Address]:
        """Where each service is looked for, and who said so."""
        return self._inner.addresses

    def create_download_queue(
        self,
        queue: str | None,
        event_handlers: Sequence[DownloadEventHandler] = (),
        quiet: bool = False,
        max_parallel_dl: int | None = None,
    ) -> DownloadQueue:
        """A further queue; see :meth:`modelkeep.client.AsyncClient.create_download_queue`."""
        inner = self._inner.create_download_queue(queue, event_handlers, quiet, max_parallel_dl)
        return DownloadQueue(inner, self._portal, self._lifeline)

    def close(self) -> None:
        """End what is open. Jobs go on in the services."""
        self._finalize()

    def __enter__(self) -> Client:
        if self.model_install.event_bus is not None:
            self._portal.run(self._inner.model_install.start_events)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
