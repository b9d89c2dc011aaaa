"""DownloadService inside another program's process, for a session that cannot travel to another one.

It runs in a thread with an event loop of its own and is called like any other, over a UNIX socket that only
this process's user can reach; who comes over its TCP port is refused. So all that holds of downloads holds of
these: checks, resumption, limits, queues.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  # its end, at the program's, comes after the one that stands here
import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from modelkeep.loops import GrpcEventLoop
from modelkeep.private import make_private, runtime_folder
from modelkeep_common.paths import STAGING, AllowedRoots
from modelkeep_common.serving import start_server
from modelkeep_download.app import DownloadApplication, limits_of
from modelkeep_download.config import DownloadSettings
from modelkeep_download.engine.guard import AddressGuard
from modelkeep_download.engine.places import Places
from modelkeep_download.engine.sessions import RequestsSession

_SOCKET: Final = "download.sock"
#: Few clients, and descriptors that are the program's own: see connections.py.
_CONNECTIONS: Final = 16
#: Seconds that a session may take to let go of a request before the program is not kept waiting any more.
_PATIENCE_S: Final = 10.0


class EmbeddedDownloads:
    """A DownloadService in this process that fetches through a session; it serves once it is made.

    Args:
        session: What URLs are asked through, like a `requests.Session`; whom it asks is its own matter.
        max_parallel_downloads: Downloads at once.
        data_dir: Where it keeps its jobs, so that the next one on that folder goes on with them; None: in a
            temporary folder, which goes at :meth:`close`.
        quiet: Log nothing at INFO and above. Otherwise what is less than a warning is left out: whoever
            embeds it tells its users.
        settings: Further settings of the service, by name.

    Raises:
        StartupError: It cannot start.
    """

    def __init__(
        self,
        session: Any,
        *,
        max_parallel_downloads: int = 5,
        data_dir: Path | None = None,
        quiet: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._held = contextlib.ExitStack()
        if data_dir is None:
            folder = Path(tempfile.mkdtemp(prefix="modelkeep-"))
            self._held.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = data_dir
        sockets = runtime_folder(folder / "embedded", _SOCKET)
        self._socket = sockets / _SOCKET
        self._session = session
        self._quiet = quiet
        self._port = 0
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="modelkeep-embedded", daemon=True)
        self._started: Future[None] = Future()
        try:
            make_private(folder)
            tokens = folder / "no-tokens.json"
            tokens.touch(mode=0o600)
            tokens.write_text('{"tokens": []}')
            self._settings = DownloadSettings(
                **{
                    "data_dir": folder,
                    "port": 0,
                    "unix_socket": self._socket,
                    "token_file": tokens,
                    "anonymous": "none",
                    "reflection": False,
                    "watchdog_s": 0,
                    "reserve_bytes": 0,
                    "max_connections": _CONNECTIONS,
                    "max_parallel_downloads": max_parallel_downloads,
                    "allow_private_addresses": True,
                    **(settings or {}),
                }
            )
            self._thread.start()
            self._started.result()
        except BaseException:
            self._held.close()
            raise
        self._held.callback(shutil.rmtree, sockets, ignore_errors=True)
        _open.add(self)

    @property
    def address(self) -> str:
        """Where it is called."""
        return f"unix:{self._socket}"

    @property
    def port(self) -> int:
        """The TCP port that it has too, and where it lets nobody in."""
        return self._port

    def close(self) -> None:
        """Stop the transfers and serve no more. Blocks; a second call does nothing.

        A program that ends does it by itself.
        """
        _open.discard(self)
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE_S)
        self._held.close()

    def _run(self) -> None:
        _hushed.set(range(logging.INFO, logging.CRITICAL + 1 if self._quiet else logging.WARNING))
        for name, logger in list(logging.root.manager.loggerDict.items()):
            if name.startswith(_OWN_LOGS) and isinstance(logger, logging.Logger):
                logger.addFilter(_is_told)
        try:
            with asyncio.Runner(loop_factory=GrpcEventLoop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
                return
            raise

    async def _serve(self) -> None:
        guard = AddressGuard(allow_private=self._settings.allow_private_addresses)
        session = RequestsSession(self._session, guard, limits_of(self._settings))
        app = _Application(self._settings, session=session)
        server = await start_server(app, self._settings)
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._port = server.port
        self._started.set_result(None)
        try:
            await self._stop.wait()
        finally:
            await server.stop(grace_s=0.5)
            await asyncio.to_thread(app.tidy)


@dataclass(frozen=True, slots=True)
class _AnyPlace(Places):
    """Wherever this process's user may write. A job's bytes are staged in the folder that they go into."""

    used: set[Path] = field(default_factory=set)

    def root_of(self, destination: Path) -> Path:
        """The innermost folder that exists."""
        folder = next(folder for folder in (destination, *destination.parents) if folder.is_dir())
        self.used.add(folder)
        return folder


class _Application(DownloadApplication):
    """Takes no folder for itself: it writes wherever the program that embeds it could."""

    _places: _AnyPlace | None = None

    @contextlib.contextmanager
    def _take_roots(self) -> Iterator[tuple[Places, Mapping[str, str]]]:
        settings = self._settings
        anywhere = AllowedRoots([Path("/")], data_dir=settings.data_dir, models=[settings.models])
        self._places = _AnyPlace(anywhere, anywhere, settings.models)
        yield self._places, {}

    def tidy(self) -> None:
        """Leave no empty staging folders behind."""
        for folder in self._places.used if self._places is not None else ():
            with contextlib.suppress(OSError):
                os.rmdir(folder / STAGING)


#: Those that serve.
_open: set[EmbeddedDownloads] = set()


def _close_all() -> None:
    for service in list(_open):
        service.close()


# Not `atexit`, by which time no work can be given to a thread any more: a drain does that.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # as concurrent.futures does

#: The levels that are left out of this thread's log, and of what it starts.
_hushed: ContextVar[range] = ContextVar("hushed", default=range(0))
_OWN_LOGS: Final = ("modelkeep_common", "modelkeep_download", "modelkeep.errors")


def _is_told(record: logging.LogRecord) -> bool:
    return record.levelno not in _hushed.get()
