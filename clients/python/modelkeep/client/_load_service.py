"""The original's constructor of a loader: from an app configuration and a record store."""

from __future__ import annotations

import importlib
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, cast

from modelkeep.addresses import find_addresses
from modelkeep.appconfig import AUTO, path_in
from modelkeep.client import _fork
from modelkeep.client._client import ModelLoad, ModelRecordStore
from modelkeep.client._installs import EventBus
from modelkeep.client._loader import AsyncModelLoader
from modelkeep.client._portal import Lifeline, Portal, close_part
from modelkeep.client._tracker import EventThread
from modelkeep.client._transport import Peer
from modelkeep.components import precision_name
from modelkeep.defaults import DEFAULT_TIMEOUT_S
from modelkeep.rpc import Address

#: Not imported by name: this package needs no service, but for this one wish. See docs/adr/0036.
_EMBEDDED: Final = "modelkeep_loader.embedded"
_GIB: Final = 1 << 30


class ModelLoadService(ModelLoad):
    """A loader, made as the original's is.

    ::

        config = AppConfig.get_config()
        store = ModelRecordServiceBase.open(config)
        loader = ModelLoadService(config, store)
        model_info = loader.get_model(key, SubModelType("vae"))
        with model_info as vae:
            image = vae.decode(latents)[0]

    With the records of a suite (`Client.model_record_store`) it is the suite's LoaderService that loads, and
    goes on when this is closed. With a record store of this process (``modelkeep_record.store``) a
    LoaderService is run inside this process for this object alone, until it is closed or forgotten; that
    needs the extra ``modelkeep[loader]``. Where the configuration names a loader, or the data folder of a
    suite, that one is called in any case, and must have the same records.

    Of the configuration these attributes are read, each only if it is there and says something, so that any
    object will do, such as the original's or a :class:`modelkeep.appconfig.AppConfig`:

    - ``loader_address``: where LoaderService is, ``host:port`` or ``unix:/path``;
    - ``data_dir``: data folder of the suite, in place of an address;
    - ``token_file``: file with the token to show;
    - ``precision``, ``device``: what to load in, and onto which device, where a call does not say;
    - ``ram``: for a loader in this process, GiB of RAM that weights may take, or ``auto``, for half of it;
    - ``models_path``, or ``models_dir`` in the ``root``: for a loader in this process, the folder that
      relative paths of records start in.

    See docs/adr/0036.

    Args:
        app_config: The application's configuration.
        record_store: The records of the models that are loaded.
        event_bus: Gets the events of loading where a caller's context has no bus of its own.
        timeout_s: Seconds that a call may take, with its repetitions.

    Raises:
        RuntimeError: With a store of this process: the loader is not installed.
        FieldInvalidException: The configuration's precision or one of its paths is none.
    """

    def __init__(
        self,
        app_config: Any,
        record_store: Any,
        event_bus: EventBus | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        precision = precision_name(_said(app_config, "precision") or AUTO)
        named = _said(app_config, "loader_address"), _said(app_config, "data_dir")
        embedded: _Embedded | None = None
        if isinstance(record_store, ModelRecordStore) or any(named):
            token_file = _said(app_config, "token_file")
            found = find_addresses({"loader": named[0]}, data_dir=named[1], token_file=token_file)
            address = found["loader"]
        else:
            embedded = _embed(app_config, record_store)
            address = Address("loader", embedded.address, "the loader in this process")
        peer, events = Peer(address, timeout_s=timeout_s), EventThread()
        device = _said(app_config, "device")
        inner = AsyncModelLoader(
            peer, event_bus, precision=precision, device=str(device) if device is not None else None
        )
        portal, lifeline = Portal(), Lifeline()
        super().__init__(inner, portal, lifeline)
        self._app_config = app_config
        self._record_store = record_store
        self._finalize = weakref.finalize(lifeline, _close, inner, peer, events, portal, embedded)

    @property
    def app_config(self) -> Any:
        """The configuration that it was made with."""
        return self._app_config

    @property
    def record_store(self) -> Any:
        """The records of the models."""
        return self._record_store

    def close(self) -> None:
        """End the leases that are held, and a loader in this process. Modules in hand go on working."""
        self._finalize()

    def __enter__(self) -> ModelLoadService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Embedded(Protocol):
    """A loader in this process."""

    @property
    def address(self) -> str: ...

    def close(self) -> None: ...


def _embed(app_config: Any, store: Any) -> _Embedded:
    try:
        module = importlib.import_module(_EMBEDDED)
    except ImportError as error:
        raise RuntimeError(
            "A loader on a record store of this process runs inside this process, and that is not installed "
            f'({error}): pip install "modelkeep[loader]"'
        ) from error
    ram = getattr(app_config, "ram", None)
    budget = int(ram * _GIB) if isinstance(ram, int | float) else 0
    models = path_in(app_config, "models_path", "models_dir", default="models")
    return cast(_Embedded, module.EmbeddedLoader(store, models, ram_budget_bytes=budget))


def _said(app_config: Any, name: str) -> str | None:
    """A text or path of the configuration; None if it says none."""
    value = getattr(app_config, name, None)
    return os.fspath(value) if isinstance(value, str | Path) and str(value) else None


def _close(
    inner: AsyncModelLoader,
    peer: Peer,
    events: EventThread,
    portal: Portal,
    embedded: _Embedded | None,
) -> None:
    try:
        close_part(inner, peer, events, portal)
    finally:
        if embedded is not None and not _fork.is_forked():
            embedded.close()
