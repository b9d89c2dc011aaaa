"""Four services as four processes on one data folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from modelkeep.defaults import (
    DEFAULT_PORTS,
    EXIT_ADDRESS_TAKEN,
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    SERVICES,
)
from modelkeep.hosts import check_spelling, is_loopback
from modelkeep.reserve import has_room
from modelkeep.suitefile import SuiteFile, suite_file_path, token_path
from modelkeep.supervisor import _access, _ports
from modelkeep.supervisor._errors import PASSED_THROUGH, SuiteError
from modelkeep.supervisor._files import lock_data_dir, make_data_dir, not_writable, write_suite_file
from modelkeep.supervisor._gateway import SuiteGateway
from modelkeep.supervisor._models import models_folder
from modelkeep.supervisor._process import ServiceProcess

#: Setting of one service that holds the address of another.
_PEERS = {
    "MODELKEEP_INSTALL_RECORD_ADDRESS": "record",
    "MODELKEEP_INSTALL_DOWNLOAD_ADDRESS": "download",
    "MODELKEEP_INSTALL_LOADER_ADDRESS": "loader",
    "MODELKEEP_LOADER_RECORD_ADDRESS": "record",
}
#: Settings of a suite on loopback: its owner, and nobody else, may have local models registered from wherever
#: he can read. The caller's own environment comes before these.
_ON_LOOPBACK: Mapping[str, str] = {
    "MODELKEEP_INSTALL_ALLOW_ANY_IMPORT_ROOT": "true",
    "MODELKEEP_LOADER_ALLOW_ANY_IMPORT_ROOT": "true",
    "MODELKEEP_DOWNLOAD_ALLOW_ANY_IMPORT_ROOT": "true",
}
#: A service's own watchdog ends a drain that hangs after 30 s; past that it is killed.
DRAIN_LIMIT_S = 40.0
_TRIES_FOR_A_PORT = 3


def ports_from(first: int) -> dict[str, int]:
    """Service name to port: `first` for record and the next ones for the others; 0 takes free ones."""
    return {name: first + place if first else 0 for place, name in enumerate(SERVICES)}


class Suite:
    """A suite of services; as a context manager it is healthy inside and gone outside.

    ::

        with Suite() as suite:
            client = Client(data_dir=suite.data_dir)

    Args:
        data_dir: The data folder; None makes a temporary one that goes when the suite stops.
        models_dir: The folder of installed models, of all services; by default ``models`` in the data folder.
        host: The address that the services listen on.
        ports: Service name to port; 0, or a service that is not named, takes a free one.
        services: Which services to start.
        env: Settings for the services (``MODELKEEP_DOWNLOAD_…``) on top of this process's environment.
        arguments: Service name to further flags of its command line.
        insecure: Let whoever reaches a port do everything but what is the owner's alone; no model is then
            read from outside the import roots.
        anonymous: What callers over TCP without a token may do: "viewer" (look) or "none".
        gateway_port: Port of 127.0.0.1 for a gateway, which serves the dashboard and HTTP with JSON; 0 takes
            a free one, None starts none. A suite without the gateway it was to have is one all the same.
        certs: The folder of certificates that ``modelkeep certs dev`` made, or one like it: TCP is TLS, and
            who calls there shows a certificate of the same authority.
        startup_timeout_s: Seconds in which all must be healthy.

    Methods block, so call them from a thread when an event loop runs.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        models_dir: Path | None = None,
        host: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        services: Sequence[str] = SERVICES,
        env: Mapping[str, str] | None = None,
        arguments: Mapping[str, Sequence[str]] | None = None,
        insecure: bool = False,
        anonymous: str = "viewer",
        gateway_port: int | None = None,
        certs: Path | None = None,
        startup_timeout_s: float = 60.0,
    ) -> None:
        self._given_data_dir = data_dir
        self._given_models_dir = models_dir
        self._models_dir: Path | None = None
        self._host = host
        self._is_local = False
        self._ports = dict(ports or {})
        self._services = tuple(services)
        self._env = dict(env or {})
        self._arguments = dict(arguments or {})
        self._insecure = insecure
        self._anonymous = anonymous
        self._gateway_port = gateway_port
        self._gateway: SuiteGateway | None = None
        self._certs = None if certs is None else certs.expanduser().absolute()
        self._sockets: dict[str, Path] = {}
        self._startup_timeout_s = startup_timeout_s
        self._interrupted = threading.Event()
        self._chosen: dict[str, int] = {}
        self._processes: dict[str, ServiceProcess] = {}
        self._temporary: Path | None = None
        self._lock: int | None = None
        self.data_dir = (data_dir or Path()).absolute()

    # -- what it is ---------------------------------------------------------------------------------------

    @property
    def services(self) -> tuple[str, ...]:
        """The names of its services."""
        return self._services

    @property
    def addresses(self) -> dict[str, str]:
        """Service name to ``host:port``; whoever calls there needs a token to do more than look."""
        return self._over_tcp()

    @property
    def models_dir(self) -> Path | None:
        """The folder of installed models, once started; None if only the services' files of settings know."""
        return self._models_dir

    @property
    def certs(self) -> Path | None:
        """The folder of certificates, by which it is called over TCP; None where that is plain."""
        return self._certs

    @property
    def sockets(self) -> dict[str, str]:
        """Service name to ``unix:path``, where only the user of the suite can call, as its owner."""
        return {name: f"unix:{path}" for name, path in self._sockets.items()}

    @property
    def gateway(self) -> SuiteGateway | None:
        """The gateway, once started, or why there is none; None if none was asked for."""
        return self._gateway

    @property
    def pids(self) -> dict[str, int]:
        """Service name to process id, of those that were started last."""
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def processes(self) -> Mapping[str, ServiceProcess]:
        """Service name to its process."""
        return self._processes

    def last_lines(self, service: str, count: int = 20) -> list[str]:
        """What a service wrote last to its stdout and stderr."""
        return self._processes[service].last_lines(count)

    # -- start and stop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all services and wait until each is healthy.

        Raises:
            SuiteError: when one cannot start; the others are drained by then. ``exit_code`` is the
                service's own where that has a meaning (65 newer schema, 73 folder not writable,
                78 bad configuration, 98 address taken).
        """
        if self._given_data_dir is None:
            # A short path: UNIX socket names below it may have 107 bytes.
            self._temporary = Path(tempfile.mkdtemp(prefix="mk-"))
            self.data_dir = self._temporary
        try:
            make_data_dir(self.data_dir)
            self._lock = lock_data_dir(self.data_dir)
            self._look_at_host()
            self._models_dir = models_folder(
                self._given_models_dir, self.data_dir, self._services, {**os.environ, **self._env}
            )
            self._sockets = _access.socket_paths(self.data_dir, self._services)
            try:
                _access.make_tokens(self.data_dir, self._services)
            except OSError as error:
                raise not_writable(self.data_dir, error) from error
            self._choose_ports()
            deadline = time.monotonic() + self._startup_timeout_s
            for name in self._services:
                self._spawn(name)
            for name in self._services:
                self._wait_healthy(name, deadline)
            if self._gateway_port is not None:
                self._gateway = SuiteGateway(self._gateway_port, self._over_tcp(), self.data_dir, self._certs)
            self._describe()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, timeout_s: float = DRAIN_LIMIT_S) -> dict[str, int]:
        """Drain what still runs and wait for it; returns each service's exit code. May be called again.

        What has not ended after `timeout_s` seconds is killed (exit code -9).
        """
        if self._lock is not None:
            suite_file_path(self.data_dir).unlink(missing_ok=True)
        self.drain()
        deadline = time.monotonic() + timeout_s
        codes: dict[str, int] = {}
        for name, process in self._processes.items():
            code = process.wait(max(0.0, deadline - time.monotonic()))
            if code is None:
                process.send(signal.SIGKILL)
                code = process.wait()
            process.close()
            codes[name] = -signal.SIGKILL if code is None else code
        # Last: by it watches hear how they end.
        if self._gateway is not None:
            self._gateway.stop()
        if self._lock is not None:
            _access.remove_sockets(list(self._sockets.values()))
            os.close(self._lock)
            self._lock = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        return codes

    def interrupt(self) -> None:
        """Make a start under way give up and drain what it started. May be called from a signal handler."""
        self._interrupted.set()

    def drain(self) -> None:
        """Ask every service to drain (SIGTERM) and return at once."""
        for process in self._processes.values():
            process.send(signal.SIGTERM)

    def kill(self, service: str, signum: signal.Signals = signal.SIGKILL) -> int:
        """Send one service a signal that ends it and wait for that; returns its exit code."""
        process = self._processes[service]
        process.send(signum)
        code = process.wait(DRAIN_LIMIT_S)
        if code is None:
            raise SuiteError(f"{service} did not end after {signum.name}", service=service)
        process.close()
        return code

    def restart(self, service: str) -> None:
        """Start a service that has ended again, on its old address, and wait until it is healthy."""
        if self._processes[service].returncode is None:
            raise SuiteError(f"{service} still runs", service=service)
        self._spawn(service)
        self._wait_healthy(service, time.monotonic() + self._startup_timeout_s)
        self._describe()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- inside -------------------------------------------------------------------------------------------

    def _look_at_host(self) -> None:
        try:
            check_spelling(self._host)
            self._is_local = is_loopback(self._host)
        except ValueError as error:
            raise SuiteError(str(error), exit_code=EXIT_CONFIG) from None
        except OSError:
            raise SuiteError(
                f"Host {self._host} is unknown: use an address, as 127.0.0.1", exit_code=EXIT_CONFIG
            ) from None

    def _over_tcp(self) -> dict[str, str]:
        return {name: _ports.join(self._host, port) for name, port in self._chosen.items()}

    def _choose_ports(self) -> None:
        taken = {port for port in self._ports.values() if port}
        for name in self._services:
            wanted = self._ports.get(name, 0)
            if wanted and not _ports.is_free(self._host, wanted):
                raise self._port_taken(name, wanted)
            self._chosen[name] = wanted or _ports.find_free(self._host, taken=taken)

    def _port_taken(self, name: str, port: int) -> SuiteError:
        return SuiteError(
            f"Port {port} on {self._host}, where {name} shall listen, is taken. Stop the program that holds "
            f"it (`ss -ltnp 'sport = :{port}'` names it), or put the suite on other ports: "
            f"modelkeep up --port {DEFAULT_PORTS['record'] + 1000}",
            exit_code=EXIT_ADDRESS_TAKEN,
            service=name,
        )

    def _environment(self, name: str) -> dict[str, str | None]:
        defaults = _ON_LOOPBACK if self._is_local else {}
        # Without tokens a caller over a socket would be the owner, whoever has it call.
        addresses = self._over_tcp() if self._insecure else self.sockets
        peers = {setting: addresses[peer] for setting, peer in _PEERS.items() if peer in addresses}
        unset = {
            key: value for key, value in {**defaults, **_start_folder(name)}.items() if key not in os.environ
        }
        # Unbuffered, so that the last lines of a process that was killed are in its log. Without byte
        # code every start would compile everything again, seconds of it.
        settings = {**unset, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": None, **peers, **self._env}
        return {**settings, **dict.fromkeys(_ON_LOOPBACK, "false")} if self._insecure else settings

    def _access_arguments(self, name: str) -> list[str]:
        socket = ["--unix-socket", str(self._sockets[name]), *_access.tls_arguments(self._certs, name)]
        if self._insecure:
            return [*socket, "--insecure"]
        accepted, own = _access.accepted_path(self.data_dir), token_path(self.data_dir, name)
        tokens = ["--token-file", str(accepted), "--peer-token-file", str(own)]
        return [*socket, *tokens, "--anonymous", self._anonymous]

    def _models_arguments(self) -> list[str]:
        return [] if self._models_dir is None else ["--models-dir", str(self._models_dir)]

    def _spawn(self, name: str) -> None:
        if (old := self._processes.get(name)) is not None:
            old.close()
        log_path = self.data_dir / "logs" / f"{name}.log"
        try:
            self._processes[name] = ServiceProcess(
                name,
                self._over_tcp()[name] if self._certs is None else self.sockets[name],
                module=f"modelkeep_{name}",
                arguments=[
                    *("--host", self._host, "--port", str(self._chosen[name])),
                    *("--data-dir", str(self.data_dir), *self._models_arguments()),
                    *self._access_arguments(name),
                    *self._arguments.get(name, ()),
                ],
                environment=self._environment(name),
                log_path=log_path,
                keep_open=[] if self._lock is None else [self._lock],
            )
        except OSError as error:
            if error.filename != str(log_path):
                raise
            raise not_writable(self.data_dir, error) from error

    def _wait_healthy(self, name: str, deadline: float) -> None:
        tries = 1
        while not self._processes[name].is_healthy(timeout_s=0.25):
            if self._interrupted.is_set():
                raise SuiteError("Interrupted while starting.", exit_code=EXIT_INTERRUPTED)
            for process in self._processes.values():
                code = process.returncode
                if code is None:
                    continue
                lost_a_race = code == EXIT_ADDRESS_TAKEN and not self._ports.get(process.name)
                if lost_a_race and tries < _TRIES_FOR_A_PORT:
                    taken = {*self._chosen.values()}
                    self._chosen[process.name] = _ports.find_free(self._host, taken=taken)
                    tries += 1
                    self._spawn(process.name)
                    break
                raise self._failed_start(process)
            if time.monotonic() > deadline:
                raise SuiteError(
                    f"{name} was not healthy after {self._startup_timeout_s:g} s; its log is "
                    f"{self._processes[name].log_path}",
                    service=name,
                )
        self._processes[name].close()

    def _failed_start(self, process: ServiceProcess) -> SuiteError:
        code = process.returncode or 0
        said = "\n".join(f"  {process.name}: {line}" for line in process.last_lines())
        return SuiteError(
            f"{process.name} {process.how_it_ended()} while starting; it said:\n{said or self._why_silent()}",
            exit_code=code if code in PASSED_THROUGH else EXIT_FAILED,
            service=process.name,
        )

    def _why_silent(self) -> str:
        if has_room(self.data_dir):
            return "  (nothing)"
        return f"  (nothing: the disk of {self.data_dir} is full, its log too; free some space)"

    def _describe(self) -> None:
        said = SuiteFile(
            pid=os.getpid(),
            data_dir=str(self.data_dir),
            models_dir="" if self._models_dir is None else str(self._models_dir),
            addresses=self._over_tcp(),
            sockets={name: str(path) for name, path in self._sockets.items()},
            gateway="" if self._gateway is None else self._gateway.address,
            certs="" if self._certs is None else str(self._certs),
            pids=self.pids,
            versions={name: version(name) for name in ("modelkeep", "grpcio", "protobuf")},
            start_time=time.time(),
        )
        try:
            with contextlib.suppress(FileNotFoundError):  # the folder was removed under the running suite
                write_suite_file(self.data_dir, said)
        except OSError as error:
            raise not_writable(self.data_dir, error) from error


def _start_folder(name: str) -> dict[str, str]:
    """Services run elsewhere; relative paths in their settings still start where this process runs."""
    try:
        return {f"MODELKEEP_{name.upper()}_BASE_DIR": os.getcwd()}
    except FileNotFoundError:  # the folder was removed
        return {}
