"""The asyncio client: one object for all four services."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType

from modelkeep.addresses import TlsFiles, find_addresses
from modelkeep.client._download_jobs import DownloadEventHandler
from modelkeep.client._downloads import AsyncDownloadQueue
from modelkeep.client._installs import AsyncModelInstall, EventBus
from modelkeep.client._loader import AsyncModelLoader
from modelkeep.client._records import AsyncModelRecordStore
from modelkeep.client._tracker import EventThread
from modelkeep.client._transport import peers
from modelkeep.defaults import DEFAULT_TIMEOUT_S, ServiceName
from modelkeep.exceptions import ModelkeepError
from modelkeep.rpc import Address
from modelkeep.server.v1 import server_service_pb2
from modelkeep.server.v1.server_service_pb2_grpc import ServerServiceStub


class AsyncClient:
    """All four services under the original's names, for asyncio.

    ::

        async with AsyncClient() as client:
            job = await client.model_install.import_model("tiny-sd")
            await client.model_install.wait_for_installs()
            print(job.config_out)

    Args:
        record: Address of RecordService, ``host:port`` or ``unix:/path``; None: found by
            MODELKEEP_CLIENT_RECORD_ADDRESS, the suite that runs on `data_dir`, or the default port.
        download: Address of DownloadService, likewise.
        install: Address of InstallService, likewise.
        loader: Address of LoaderService, likewise.
        data_dir: Data folder of the suite; by default MODELKEEP_DATA_DIR or ``./modelkeep-data``.
        token_file: File with the token to show; by default MODELKEEP_TOKEN_FILE. Without either, the UNIX
            socket of the suite is used, or its owner's token.
        ca_file: PEM file of the authorities of the services, which are then called by TLS where they are
            called over TCP; by default MODELKEEP_CA_FILE.
        cert_file: PEM file of the certificate to show; by default MODELKEEP_CERT_FILE.
        key_file: PEM file of its private key; by default MODELKEEP_KEY_FILE, or `cert_file`. The three are
            read again when they change.
        event_bus: Gets the events of installs and of loading; see
            :class:`modelkeep.client.AsyncModelInstall`.
        download_event_handlers: Handlers of the default download queue.
        timeout_s: Seconds that a call may take, with its repetitions.

    Nothing is connected before the first call. One client belongs to one event loop.

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
        given: Mapping[ServiceName, str | None] = {
            "record": record,
            "download": download,
            "install": install,
            "loader": loader,
        }
        self.addresses: Mapping[ServiceName, Address] = find_addresses(
            given, data_dir=data_dir, token_file=token_file, tls=TlsFiles(ca_file, cert_file, key_file)
        )
        self._peers = peers(self.addresses, timeout_s=timeout_s)
        self._events = EventThread()
        self._roots: tuple[tuple[str, str], ...] | None = None
        self._queues: list[AsyncDownloadQueue] = []
        self.model_record_store = AsyncModelRecordStore(self._peers["record"], self._find_roots)
        self.model_install = AsyncModelInstall(self._peers["install"], self._events, event_bus)
        self.model_loader = AsyncModelLoader(self._peers["loader"], event_bus)
        self.download_queue = self.create_download_queue("", download_event_handlers)

    def create_download_queue(
        self,
        queue: str | None,
        event_handlers: Sequence[DownloadEventHandler] = (),
        quiet: bool = False,
        max_parallel_dl: int | None = None,
    ) -> AsyncDownloadQueue:
        """A further queue, whose jobs stay apart from other queues' jobs.

        Args:
            queue: Its name: at most 64 of a-z, A-Z, 0-9, ".", "_", "-"; None: every queue at once.
            event_handlers: Called for every job of the queue, after the job's own.
            quiet: Log nothing at INFO and above about the queue, failures and failing handlers included.
            max_parallel_dl: Most downloads of the queue at once, within what the service allows all of them.
        """
        if queue is None and max_parallel_dl is not None:
            raise ValueError("every queue together has the service's own limit: see set_limits")
        made = AsyncDownloadQueue(
            self._peers["download"],
            self._events,
            queue,
            event_handlers,
            quiet,
            max_parallel_dl=max_parallel_dl,
        )
        self._queues.append(made)
        return made

    async def server_info(self, service: ServiceName) -> server_service_pb2.GetServerInfoResponse:
        """Version, instance, features, limits and roots of a service."""
        peer = self._peers[service]
        stub = ServerServiceStub(peer.channel)
        return await peer.call(stub.GetServerInfo, server_service_pb2.GetServerInfoRequest())

    async def close(self) -> None:
        """End what is open. Jobs go on in the services."""
        await self.model_install.close()
        for queue in self._queues:
            await queue.close()
        await self.model_loader.close()
        self._events.close()
        for peer in self._peers.values():
            await peer.close()

    async def __aenter__(self) -> AsyncClient:
        if self.model_install.event_bus is not None:
            await self.model_install.start_events()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _find_roots(self) -> Sequence[tuple[str, str]]:
        """The folders of installed models, if the install service can be asked."""
        if self._roots is None:
            try:
                info = await self.server_info("install")
            except ModelkeepError:
                return ()
            self._roots = tuple((root.path, root.root_id) for root in info.roots if root.purpose == "models")
        return self._roots
