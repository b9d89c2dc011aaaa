"""Running a service: open, bind, serve, drain, exit with a code that says how it went.

Order of a start: the address is taken first (a second process must not touch the stores of the first),
then :meth:`Application.open` gives a :class:`Service`, which registers, and only then health says SERVING.

Order of a drain (SIGTERM, SIGINT): health says NOT_SERVING → ``drain_delay_s``, in which load balancers
notice → :attr:`Service.drain` ends watches with their tokens → calls under way get ``drain_grace_s`` →
what :meth:`Application.open` opened is closed → exit 0. A second signal cuts the grace short; a drain
that hangs, and an event loop that stands still, are ended by a watchdog.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import grpc
import grpc.aio

from modelkeep.defaults import EXIT_NOT_WRITABLE
from modelkeep.hosts import dial_host
from modelkeep.renewed import LOOK_S, Renewed
from modelkeep.server.v1 import server_service_pb2_grpc

from .. import logs
from ..auth.callers import callers_of
from ..auth.table import ALLOWED
from ..calls.admission import Admission
from ..calls.chain import Chain
from ..calls.registrar import Registrar
from ..calls.status import domain_of
from ..calls.telemetry import Telemetry
from ..calls.validation import collector
from ..idempotency import KEEP_SECONDS
from ..paging import MAX_PAGE_SIZE
from ..settings import ServiceSettings
from ..startup import StartupError, tell
from ..threads import in_thread
from ..watch.log import HISTORY_CHANGES, HISTORY_SECONDS
from . import address
from .connections import connection_limit
from .health import NAME as HEALTH
from .health import HealthServicer
from .probes import Probes
from .server_info import FULL_NAME, ProcessFacts, ServerServicer
from .tls import ServerTls
from .watchdog import DrainWatchdog, LoopWatchdog

S = TypeVar("S", bound=ServiceSettings)

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
#: Seconds, a tenth more or less, after which new calls of a caller with a certificate take a new connection.
CONNECTION_AGE_S = 600.0
#: Seconds that a connection has until TLS and HTTP/2 are agreed on.
HANDSHAKE_S = 20.0
_IMPORT_RULES_AFTER_S = 0.5


@dataclass(frozen=True)
class Service:
    """A service that is open, whole: what a server serves."""

    #: Calls the generated ``add_…Servicer_to_server`` functions.
    register: Callable[[grpc.aio.Server], None]
    #: Features, limits, roots, devices, store_id for GetServerInfo; see server_info.py.
    info: Callable[[], Mapping[str, Any]]
    #: No new calls are wanted: end watches with their tokens, persist jobs.
    drain: Callable[[], Awaitable[None]]


class Application(Protocol):
    """What a service's ``__main__`` builds; one per process."""

    @property
    def full_names(self) -> tuple[str, ...]:
        """Full names of its gRPC services, as ``modelkeep.record.v1.RecordService``."""
        ...

    def open(self) -> contextlib.AbstractAsyncContextManager[Service]:
        """Open stores and start background work; at the end, when every call has ended, close them.

        Raises:
            StartupError: It cannot; then nothing is left open.
        """
        ...


class RunningServer:
    """A server that serves; made by :func:`start_server`."""

    def __init__(
        self,
        service: Service,
        settings: ServiceSettings,
        server: grpc.aio.Server,
        health: HealthServicer,
        end_reflection: Callable[[], None],
        port: int,
        metrics_port: int,
        admission: Admission,
        held: contextlib.AsyncExitStack,
    ) -> None:
        self.service = service
        self.settings = settings
        self.port = port
        #: Where probes are answered; 0 where they are not.
        self.metrics_port = metrics_port
        #: Where clients connect to.
        self.address = f"{dial_host(settings.host)}:{port}"
        self.health = health
        self.admission = admission
        self._server = server
        self._held = held
        self._end_reflection = end_reflection
        self._hurry = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None

    async def stop(self, *, delay_s: float | None = None, grace_s: float | None = None) -> None:
        """Drain and close everything; a second call waits for the first."""
        if self._stopping is None:
            delay = self.settings.drain_delay_s if delay_s is None else delay_s
            grace = self.settings.drain_grace_s if grace_s is None else grace_s
            self._stopping = asyncio.get_running_loop().create_task(self._drain(delay, grace), name="drain")
        await asyncio.shield(self._stopping)

    def hurry(self) -> None:
        """Give calls under way no more time."""
        self._hurry.set()

    async def _drain(self, delay_s: float, grace_s: float) -> None:
        self.health.stop_serving()
        if delay_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), delay_s)
        try:
            await self.service.drain()
        except Exception:
            _log.exception("drain of the service failed; going on")
        self.health.end_watches()
        self._end_reflection()
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        hurrying = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await self._server.stop(None)
        await stopping
        hurrying.cancel()
        await self._held.aclose()


async def start_server(
    app: Application, settings: ServiceSettings, *, allowed: Mapping[str, frozenset[str]] = ALLOWED
) -> RunningServer:
    """Bind, open and serve; what :func:`run` does, for a process that has other plans too.

    Args:
        app: What is served.
        settings: Its settings.
        allowed: Full method name to the roles that may call it; for methods that are not the suite's.

    Raises:
        StartupError: With the exit code that tells why it cannot.
    """
    await asyncio.to_thread(address.check, settings)
    callers = await asyncio.to_thread(callers_of, settings)
    tls = None if settings.tls_cert_file is None else await asyncio.to_thread(ServerTls, settings)
    admission = Admission(settings)
    writer = logs.writer()
    telemetry = Telemetry(writer.put if writer is not None and _log.isEnabledFor(logging.INFO) else None)
    chain = Chain(
        domain_of(settings.service), admission, telemetry, callers.identify, settings.max_unary_s, allowed
    )
    registrar = Registrar(chain)
    connections = connection_limit(settings.max_connections)
    server = grpc.aio.server(
        options=_options(settings, connections, of_clients=tls is not None and tls.of_clients)
    )
    async with contextlib.AsyncExitStack() as opening:
        await opening.enter_async_context(in_thread(address.hold_socket(settings)))
        opening.push_async_callback(_give_back, server)
        probes = Probes()
        if settings.metrics_port is not None:
            await opening.enter_async_context(
                probes.listening(settings.metrics_host or settings.host, settings.metrics_port)
            )
        port = await address.bind(server, settings, None if tls is None else tls.credentials())
        opening.callback(_looking([*callers.renewed, *(() if tls is None else (tls,))]).cancel)
        service = await opening.enter_async_context(app.open())
        service.register(cast(grpc.aio.Server, registrar))
        facts = await asyncio.to_thread(ProcessFacts.read)
        health, end_reflection = _register_common(
            app, service, settings, registrar, facts, _limits(settings, admission, connections)
        )
        probes.ready = lambda: health.is_serving
        registrar.add_to(server)
        await server.start()
        # A moment later, so that it does not compete with the first health checks. A call that comes before
        # it is done waits for it by itself.
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_IMPORT_RULES_AFTER_S, loop.run_in_executor, None, collector)
        opening.callback(timer.cancel)  # threads are no longer to be had once the loop ends
        held = opening.pop_all()
    await asyncio.to_thread(address.protect_socket, settings)
    health.serve()
    return RunningServer(
        service, settings, server, health, end_reflection, port, probes.port, admission, held
    )


def _looking(renewed: Sequence[Renewed[Any] | ServerTls]) -> asyncio.Task[None]:
    """Looks after files that may be replaced, until it is cancelled."""

    async def look() -> None:
        while renewed:
            await asyncio.sleep(LOOK_S)
            for one in renewed:
                try:
                    await asyncio.to_thread(one.look)
                except Exception:  # the next look may fare better, and the other files are to be looked at
                    _log.exception("cannot look whether files were replaced")

    return asyncio.get_running_loop().create_task(look(), name="files that may be replaced")


async def _give_back(server: grpc.aio.Server) -> None:
    """Let go of the port, which gRPC does only once the server has been started and stopped."""
    with contextlib.suppress(Exception):
        await server.start()
    await server.stop(None)


def _register_common(
    app: Application,
    service: Service,
    settings: ServiceSettings,
    registrar: Registrar,
    facts: ProcessFacts,
    limits: Mapping[str, int],
) -> tuple[HealthServicer, Callable[[], None]]:
    names = (*app.full_names, FULL_NAME)
    server_service_pb2_grpc.add_ServerServiceServicer_to_server(
        ServerServicer(settings.service, service.info, facts, limits),
        cast(grpc.aio.Server, registrar),
    )
    health = HealthServicer(names)
    health.register(registrar)
    if not settings.reflection:
        return health, lambda: None
    from .reflection import Reflection

    reflection = Reflection((*names, HEALTH))
    reflection.register(registrar)
    return health, reflection.end


def _limits(settings: ServiceSettings, admission: Admission, connections: int) -> dict[str, int]:
    """The bounds that every service has, as GetServerInfo tells them."""
    return {
        "max_message_bytes": MAX_MESSAGE_BYTES,
        "max_page_size": MAX_PAGE_SIZE,
        "max_history_changes": HISTORY_CHANGES,
        "max_history_seconds": int(HISTORY_SECONDS),
        "max_history_bytes": settings.history_bytes,
        "max_kept_answers_seconds": int(KEEP_SECONDS),
        "max_kept_answers_bytes": settings.kept_answers_bytes,
        "max_watch_queue_bytes": settings.watch_queue_bytes,
        "max_watch_queues_bytes": settings.watch_queues_bytes,
        "max_connections": connections,
        "max_connection_streams": settings.max_connection_streams,
        "reserve_bytes": settings.reserve_bytes,
        "log_file_bytes": settings.log_file_bytes,
        **admission.limits(),
    }


def _options(settings: ServiceSettings, connections: int, *, of_clients: bool) -> tuple[tuple[str, Any], ...]:
    """Channel arguments; gRPC's names say the units."""
    return (
        # Whose certificate was replaced shows the new one in time: gRPC gives what the connection has to come
        # to another, and calls under way stay where they are.
        *((("grpc.max_connection_age_ms", int(CONNECTION_AGE_S * 1000)),) if of_clients else ()),
        # On by default on Linux: a second server would share the port without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Calls that wait for the loop are otherwise CANCELLED from 1,000 on; admission answers better.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 30_000),
        # Who connects and says nothing, or nothing of TLS, keeps a connection for no longer.
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
        # Of each listener. A connection beyond is closed at once.
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", settings.max_connection_streams),
        # Else an honest burst beyond that number loses calls as UNAVAILABLE, where they can simply wait.
        ("grpc.http.overload_protection", 0),
    )


def run(
    app_factory: Callable[[S], Application], settings: S, *, allowed: Mapping[str, frozenset[str]] = ALLOWED
) -> int:
    """Serve until a signal asks to stop; the arguments are those of :func:`start_server`.

    Returns:
        The exit code: 0 after a drain, else that of the StartupError.
    """
    faulthandler.enable()
    os.umask(settings.umask)
    try:
        logs.configure(
            settings.service,
            level=settings.log_level,
            file=settings.log_file,
            max_bytes=settings.log_file_bytes,
        )
    except OSError as error:
        tell(settings.service, f"cannot write {settings.log_file}: {error.strerror}")
        return EXIT_NOT_WRITABLE
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(app_factory, settings, allowed))
    except StartupError as error:
        _log.error("cannot start: %s", error.message)
        tell(settings.service, error.message)
        return error.exit_code
    finally:
        logs.shutdown()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)


async def _serve(
    app_factory: Callable[[S], Application], settings: S, allowed: Mapping[str, frozenset[str]]
) -> int:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    running: list[RunningServer] = []

    def on_signal() -> None:
        if asked.is_set():
            for server in running:
                server.hurry()
        asked.set()

    # From the very first moment: a signal during the start must not skip the clean-up either.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    server = await start_server(app_factory(settings), settings, allowed=allowed)
    running.append(server)
    # Not before: a start may take as long as its stores do.
    loop_watchdog = LoopWatchdog(settings.watchdog_s)
    loop_watchdog.start()
    _log.info(
        "serving",
        extra={"fields": {"address": server.address, "pid": os.getpid(), "settings": settings.redacted()}},
    )
    await asked.wait()
    _log.info("draining")
    limit_s = settings.drain_delay_s + settings.drain_watchdog_s
    drain_watchdog = DrainWatchdog(settings.service, limit_s)
    drain_watchdog.start()
    await server.stop()
    drain_watchdog.stop()
    loop_watchdog.stop()
    _log.info("drained")
    return 0
