"""A service inside another program's process.

It runs in a thread with an event loop of its own and is called like any other, over a UNIX socket that only
this process's user can reach; who comes over its TCP port is refused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  # its end, at the program's, comes after the one that stands here
import contextlib
import logging
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from modelkeep.loops import GrpcEventLoop
from modelkeep.private import make_private, runtime_folder
from modelkeep_common.serving.server import Application, start_server
from modelkeep_common.settings import ServiceSettings

#: Few clients, and descriptors that are the program's own: see connections.py.
_CONNECTIONS: Final = 16
#: Seconds that a service may take to end before the program is not kept waiting any more.
_PATIENCE_S: Final = 10.0


class EmbeddedService(ABC):
    """A service in this process; it serves once it is made.

    Args:
        service: Its name: "download".
        data_dir: Where it keeps its things, so that the next one on that folder finds them; None: in a
            temporary folder, which goes at :meth:`close`.
        quiet: Log nothing at INFO and above. Otherwise what is less than a warning is left out: whoever
            embeds it tells its users.

    Raises:
        StartupError: It cannot start.
    """

    def __init__(self, service: str, *, data_dir: Path | None = None, quiet: bool = False) -> None:
        self._held = contextlib.ExitStack()
        if data_dir is None:
            folder = Path(tempfile.mkdtemp(prefix="modelkeep-"))
            self._held.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = data_dir
        name = f"{service}.sock"
        sockets = runtime_folder(folder / "embedded", name)
        self._socket = sockets / name
        self._quiet = quiet
        self._port = 0
        self._own_logs = ("modelkeep_common", f"modelkeep_{service}", "modelkeep.errors")
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: Future[None] = Future()
        try:
            make_private(folder)
            tokens = folder / "no-tokens.json"
            tokens.touch(mode=0o600)
            tokens.write_text('{"tokens": []}')
            settings = self._settings(
                {
                    "data_dir": folder,
                    "port": 0,
                    "unix_socket": self._socket,
                    "token_file": tokens,
                    "anonymous": "none",
                    "reflection": False,
                    "watchdog_s": 0,
                    "reserve_bytes": 0,
                    "max_connections": _CONNECTIONS,
                }
            )
            self._thread = threading.Thread(
                target=self._run, args=(settings,), name="modelkeep-embedded", daemon=True
            )
            self._thread.start()
            self._started.result()
        except BaseException:
            self._held.close()
            raise
        self._held.callback(shutil.rmtree, sockets, ignore_errors=True)
        _open.add(self)

    @abstractmethod
    def _settings(self, common: Mapping[str, Any]) -> ServiceSettings:
        """The service's settings, out of those that every embedded service has."""

    @abstractmethod
    def _application(self, settings: Any) -> Application:
        """The service. Called in the thread's event loop."""

    def _tidy(self) -> None:  # noqa: B027  # a service need not
        """Called once the service has ended, in a thread."""

    @property
    def address(self) -> str:
        """Where it is called."""
        return f"unix:{self._socket}"

    @property
    def port(self) -> int:
        """The TCP port that it has too, and where it lets nobody in."""
        return self._port

    def close(self) -> None:
        """Serve no more. Blocks; a second call does nothing.

        A program that ends does it by itself.
        """
        _open.discard(self)
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE_S)
        self._held.close()

    def _run(self, settings: ServiceSettings) -> None:
        _hushed.set(range(logging.INFO, logging.CRITICAL + 1 if self._quiet else logging.WARNING))
        for name, logger in list(logging.root.manager.loggerDict.items()):
            if name.startswith(self._own_logs) and isinstance(logger, logging.Logger):
                logger.addFilter(_is_told)
        try:
            with asyncio.Runner(loop_factory=GrpcEventLoop) as runner:
                runner.run(self._serve(settings))
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
                return
            raise

    async def _serve(self, settings: ServiceSettings) -> None:
        server = await start_server(self._application(settings), settings)
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._port = server.port
        self._started.set_result(None)
        try:
            await self._stop.wait()
        finally:
            await server.stop(grace_s=0.5)
            await asyncio.to_thread(self._tidy)


#: Those that serve.
_open: set[EmbeddedService] = set()


def _close_all() -> None:
    for service in list(_open):
        service.close()


# Not `atexit`, by which time no work can be given to a thread any more: a drain does that.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # as concurrent.futures does

#: The levels that are left out of this thread's log, and of what it starts.
_hushed: ContextVar[range] = ContextVar("hushed", default=range(0))


def _is_told(record: logging.LogRecord) -> bool:
    return record.levelno not in _hushed.get()
