"""The original's constructor of an installer: from an app configuration, a record store and an event bus."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from modelkeep.addresses import find_addresses
from modelkeep.appconfig import path_in
from modelkeep.client._client import ModelInstall, ModelRecordStore
from modelkeep.client._installs import AsyncModelInstall, EventBus
from modelkeep.client._portal import Lifeline, Portal, close_part
from modelkeep.client._tracker import EventThread
from modelkeep.client._transport import Peer
from modelkeep.defaults import DEFAULT_TIMEOUT_S
from modelkeep.exceptions import RootMismatchException
from modelkeep.server.v1 import server_service_pb2
from modelkeep.server.v1.server_service_pb2_grpc import ServerServiceStub


class ModelInstallService(ModelInstall):
    """An installer, made as the original's is.

    ::

        installer = ModelInstallService(config, client.model_record_store)
        installer.start(invoker)
        job = installer.import_model("/srv/models/sushi.safetensors")
        installer.wait_for_installs()

    It installs by an InstallService, which works on without it. Of the configuration these attributes are
    read, each only if it is there and says something, so that any object will do, such as the original's or a
    :class:`modelkeep.appconfig.AppConfig`:

    - ``install_address``: where InstallService is, ``host:port`` or ``unix:/path``;
    - ``data_dir``: data folder of the suite, in place of an address;
    - ``token_file``: file with the token to show;
    - ``models_path``, or ``models_dir`` in the ``root``: the folder of installed models, which must be the
      service's; see :meth:`start`.

    Without the first two, InstallService is looked for as by :class:`modelkeep.client.Client`. All else is
    the service's own setting. See docs/adr/0020.

    Args:
        app_config: The application's configuration.
        record_store: The records of the models that are installed: `Client.model_record_store`.
        event_bus: Gets the events of installs; see :class:`modelkeep.client.AsyncModelInstall`.
        timeout_s: Seconds that a call may take, with its repetitions.
    """

    def __init__(
        self,
        app_config: Any,
        record_store: ModelRecordStore,
        event_bus: EventBus | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        address = find_addresses(
            {"install": _said(app_config, "install_address")},
            data_dir=_said(app_config, "data_dir"),
            token_file=_said(app_config, "token_file"),
        )["install"]
        peer, events = Peer(address, timeout_s=timeout_s), EventThread()
        inner = AsyncModelInstall(peer, events, event_bus)
        portal, lifeline = Portal(), Lifeline()
        super().__init__(inner, portal, lifeline)
        self._app_config = app_config
        self._record_store = record_store
        self._peer = peer
        self._finalize = weakref.finalize(lifeline, close_part, inner, peer, events, portal)

    @property
    def app_config(self) -> Any:
        """The configuration that it was made with."""
        return self._app_config

    @property
    def record_store(self) -> ModelRecordStore:
        """The records of the models."""
        return self._record_store

    def start(self, invoker: Any = None) -> None:
        """Begin, as the application does when it starts: follow the jobs for the event bus, and begin a sync.

        The sync goes on by itself: what is new in models_dir and the autoimport folders is registered.
        Records whose files are gone are marked; :meth:`sync_to_config` removes them.

        Args:
            invoker: What the original's installer is handed; it is not used.

        Raises:
            RootMismatchException: The configuration's folder of models is not the service's models_dir.
            UnavailableException: InstallService does not answer.
        """
        self._portal.run(self._start)

    async def _start(self) -> None:
        stub = ServerServiceStub(self._peer.channel)
        info = await self._peer.call(stub.GetServerInfo, server_service_pb2.GetServerInfoRequest())
        roots = [root for root in info.roots if root.purpose == "models"]
        wanted = path_in(self._app_config, "models_path", "models_dir")
        if wanted and os.path.realpath(wanted) not in [os.path.realpath(root.path) for root in roots]:
            actual = ", ".join(root.path for root in roots)
            raise RootMismatchException(
                f"The configuration has its models in {wanted}, and InstallService in {actual}.",
                metadata={"path": str(wanted)},
                remedy=f"Start the suite with --models-dir {wanted}, or have models_dir say its folder.",
            )
        if self.event_bus is not None:
            await self._inner.start_events()
        await self._inner.sync()

    def close(self) -> None:
        """End what is open. Jobs go on in the service."""
        self._finalize()

    def __enter__(self) -> ModelInstallService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _said(app_config: Any, name: str) -> str | None:
    """A text or path of the configuration; None if it says none."""
    value = getattr(app_config, name, None)
    return os.fspath(value) if isinstance(value, str | Path) and str(value) else None
