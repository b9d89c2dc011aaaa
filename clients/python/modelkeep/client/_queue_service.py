"""The original's constructor of a download queue: an object that is a queue of its own."""

from __future__ import annotations

import importlib
import os
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, cast

from modelkeep.addresses import find_addresses
from modelkeep.client import _fork
from modelkeep.client._client import DownloadQueue
from modelkeep.client._download_jobs import DownloadEventHandler
from modelkeep.client._downloads import AsyncDownloadQueue
from modelkeep.client._portal import Lifeline, Portal, close_part
from modelkeep.client._tracker import EventThread
from modelkeep.client._transport import Peer
from modelkeep.defaults import DEFAULT_TIMEOUT_S
from modelkeep.rpc import Address

#: Not imported by name: this package needs no service, but for this one wish. See docs/adr/0017.
_EMBEDDED: Final = "modelkeep_download.embedded"


class DownloadQueueService(DownloadQueue):
    """A download queue of its own, made as the original's is.

    ::

        queue = DownloadQueueService(event_handlers=[log_download_event])
        job = queue.create_download_job(source="https://host/m.safetensors", destdir="/data/models/")
        queue.join()

    Its downloads are made by the DownloadService that :class:`modelkeep.client.Client` would find, in a queue
    that no other object shares: it knows its own jobs, and no others. Jobs go on there when the object is
    gone.

    With a `requests_session`, which cannot travel to another process, a DownloadService is run inside this
    process for this queue alone, until the queue is closed or forgotten; it needs the extra
    ``modelkeep[download]``. It fetches through the session and writes wherever this process may.

    Args:
        event_handlers: Called for every job of the queue, after the job's own.
        max_parallel_dl: Most downloads of the queue at once, within what the service allows all of them.
        requests_session: Asks the addresses in place of the service; like a `requests.Session`.
        quiet: Log nothing at INFO and above.
        queue: Name of the queue in the service, to find its jobs again with another object; by default one
            of its own.
        download: Address of DownloadService, as in :class:`modelkeep.client.AsyncClient`.
        data_dir: Data folder of the suite, likewise; with a session the folder where its service keeps its
            jobs, by default a temporary one.
        token_file: File with the token to show, likewise.
        timeout_s: Seconds that a call may take, with its repetitions.
        settings: With a session: settings of its service by name, such as ``{"max_attempts": 2}``.

    Raises:
        RuntimeError: With a session: the download service is not installed.
    """

    def __init__(
        self,
        event_handlers: Sequence[DownloadEventHandler] = (),
        max_parallel_dl: int = 5,
        requests_session: Any = None,
        quiet: bool = False,
        *,
        queue: str | None = None,
        download: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        token_file: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if max_parallel_dl < 1:
            raise ValueError(f"max_parallel_dl must be 1 or more, and is {max_parallel_dl}")
        embedded: _Embedded | None = None
        if requests_session is not None:
            embedded = _embed(requests_session, max_parallel_dl, data_dir, quiet, settings)
            address = Address("download", embedded.address, "the session's own service")
        else:
            address = find_addresses({"download": download}, data_dir=data_dir, token_file=token_file)[
                "download"
            ]
        peer, events = Peer(address, timeout_s=timeout_s), EventThread()
        inner = AsyncDownloadQueue(
            peer,
            events,
            f"queue-{uuid.uuid4().hex}" if queue is None else queue,
            event_handlers,
            quiet,
            max_parallel_dl=None if embedded else max_parallel_dl,
            passing=queue is None,
        )
        portal, lifeline = Portal(), Lifeline()
        super().__init__(inner, portal, lifeline)
        self._finalize = weakref.finalize(lifeline, _close, inner, peer, events, portal, embedded)

    def close(self) -> None:
        """End what is open. Jobs go on in the service; with a session, they end with it."""
        self._finalize()

    def __enter__(self) -> DownloadQueueService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Embedded(Protocol):
    """A download service in this process."""

    @property
    def address(self) -> str: ...

    def close(self) -> None: ...


def _embed(
    session: Any,
    at_once: int,
    data_dir: str | os.PathLike[str] | None,
    quiet: bool,
    settings: Mapping[str, Any] | None,
) -> _Embedded:
    try:
        module = importlib.import_module(_EMBEDDED)
    except ImportError as error:
        raise RuntimeError(
            "A queue with a requests_session runs DownloadService inside this process, and that is not "
            f'installed ({error}): pip install "modelkeep[download]"'
        ) from error
    made = module.EmbeddedDownloads(
        session,
        max_parallel_downloads=at_once,
        data_dir=Path(data_dir) if data_dir is not None else None,
        quiet=quiet,
        settings=settings,
    )
    return cast(_Embedded, made)


def _close(
    inner: AsyncDownloadQueue, peer: Peer, events: EventThread, portal: Portal, embedded: _Embedded | None
) -> None:
    try:
        close_part(inner, peer, events, portal)
    finally:
        if embedded is not None and not _fork.is_forked():
            embedded.close()
