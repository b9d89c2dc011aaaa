"""``modelkeep up``: a suite in the foreground."""

from __future__ import annotations

import queue
import shlex
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from modelkeep.defaults import DATA_DIR, DEFAULT_PORTS, EXIT_FAILED, EXIT_OK, MODELS, SERVICES
from modelkeep.suitefile import token_path
from modelkeep.supervisor._errors import SuiteError
from modelkeep.supervisor._gateway import SuiteGateway
from modelkeep.supervisor._process import ServiceProcess
from modelkeep.supervisor._suite import DRAIN_LIMIT_S, Suite

_Happened: TypeAlias = queue.SimpleQueue[signal.Signals | ServiceProcess]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_INSECURE = (
    "--insecure: whoever reaches a port may install, delete and lend models, other users of this machine "
    "too. Local models are taken from the import roots only."
)


def up(
    data_dir: Path = DATA_DIR,
    *,
    models_dir: Path | None = None,
    model_config_db: Path | None = None,
    host: str = "127.0.0.1",
    ports: Mapping[str, int] | None = None,
    services: Sequence[str] = SERVICES,
    env: Mapping[str, str] | None = None,
    insecure: bool = False,
    anonymous: str = "viewer",
    dashboard_port: int | None = None,
    certs: Path | None = None,
    startup_timeout_s: float = 60.0,
    say: Callable[[str], None] = print,
) -> int:
    """Run the services in the foreground until a signal or a death ends them.

    One Ctrl-C (or SIGTERM, SIGHUP) drains all; a second one kills them. When a service dies its last
    lines are shown and the rest is drained. Nothing is restarted.

    Args:
        data_dir: The data folder, made when it is not there.
        models_dir: The folder of installed models; ``models`` in the data folder by default.
        model_config_db: The file of the records, SQLite (.db) or YAML (.yaml, .yml); SQLite in the data
            folder by default.
        host: The address to listen on.
        ports: Service name to port; the defaults are 50051 to 50054, 0 takes a free one.
        services: Which services to run.
        env: Settings for the services on top of this process's environment.
        insecure: Want no token over TCP; see :class:`modelkeep.supervisor.Suite`.
        anonymous: What callers over TCP without a token may do: "viewer" or "none".
        dashboard_port: Port of 127.0.0.1 for the dashboard and HTTP with JSON; None leaves them out. Where
            they cannot be had, the suite says why and runs without them.
        certs: A folder of certificates; see :class:`modelkeep.supervisor.Suite`.
        startup_timeout_s: Seconds in which all must be healthy.
        say: Prints one or more lines.

    Returns:
        The exit code: 0 drained; 130 interrupted while starting; 1 a service died or did not drain, or
        another suite runs on the folder; 65, 73, 78 or 98 when the start failed for one of these
        reasons (docs/operations.md).

    Call it from the main thread: it sets signal handlers, and puts the old ones back.
    """
    suite = Suite(
        data_dir,
        models_dir=models_dir,
        host=host,
        ports={**DEFAULT_PORTS, **(ports or {})},
        services=services,
        env=env,
        arguments={"record": _records(model_config_db)},
        insecure=insecure,
        anonymous=anonymous,
        gateway_port=dashboard_port,
        certs=certs,
        startup_timeout_s=startup_timeout_s,
    )
    # SimpleQueue.put may be called from a signal handler, and an empty queue costs no time to wait for.
    happened: _Happened = queue.SimpleQueue()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        suite.interrupt()
        happened.put(signal.Signals(signum))

    before = {signum: signal.signal(signum, on_signal) for signum in _SIGNALS}
    try:
        suite.start()
        _greet(suite, say, with_token=not insecure)
        if insecure:
            say(_INSECURE)
        for process in suite.processes.values():
            threading.Thread(target=_report_end, args=(process, happened), daemon=True).start()
        if suite.gateway is not None:
            threading.Thread(target=_tell_end, args=(suite.gateway, say), daemon=True).start()
        return _supervise(suite, happened, say)
    except SuiteError as error:
        say(error.message)
        return error.exit_code
    finally:
        suite.stop()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _records(path: Path | None) -> list[str]:
    return [] if path is None else ["--model-config-db", str(path.expanduser().absolute())]


def _report_end(
    process: ServiceProcess, happened: queue.SimpleQueue[signal.Signals | ServiceProcess]
) -> None:
    process.wait()
    happened.put(process)


def _tell_end(gateway: SuiteGateway, say: Callable[[str], None]) -> None:
    if said := gateway.wait():
        say(said)


def _greet(suite: Suite, say: Callable[[str], None], *, with_token: bool) -> None:
    width = max(len(name) for name in suite.services)
    lines = [f"modelkeep {version('modelkeep')} is up; its data are in {suite.data_dir}"]
    if suite.models_dir not in (None, suite.data_dir / MODELS):
        lines.append(f"and its models in {suite.models_dir}")
    lines += [f"  {name:<{width}}  {address}" for name, address in suite.addresses.items()]
    if (record := suite.addresses.get("record")) is not None:
        how = "-plaintext" if suite.certs is None else _by_certificate(suite.certs)
        lines.append(f"Try: grpcurl {how} {record} modelkeep.record.v1.RecordService/ListModels")
    if suite.gateway is not None:
        lines.append(_about_gateway(suite.gateway, suite.data_dir, with_token=with_token))
    lines.append("Ctrl-C stops it.")
    say("\n".join(lines))


def _about_gateway(gateway: SuiteGateway, data_dir: Path, *, with_token: bool) -> str:
    if not gateway.address:
        return f"Without dashboard and HTTP: {gateway.refusal}."
    if not gateway.has_pages:
        return f"HTTP with JSON: {gateway.address}/v1/models"
    # Behind the "#" it stays in the browser.
    token = f"#token={token_path(data_dir).read_text(encoding='utf-8').strip()}" if with_token else ""
    return f"Dashboard: {gateway.address}/{token}"


def _by_certificate(certs: Path) -> str:
    files = {"-cacert": "ca.pem", "-cert": "client.pem", "-key": "client.key"}
    return " ".join(f"{flag} {shlex.quote(str(certs / name))}" for flag, name in files.items())


def _supervise(suite: Suite, happened: _Happened, say: Callable[[str], None]) -> int:
    """Wait for the end of the suite; returns the exit code."""
    running = set(suite.services)
    failed = False
    draining = False
    while running:
        try:
            event = happened.get(timeout=DRAIN_LIMIT_S if draining else None)
        except queue.Empty:
            say(f"Not drained after {DRAIN_LIMIT_S:g} s, killed: {', '.join(sorted(running))}.")
            failed = _kill(suite)
            continue
        if isinstance(event, ServiceProcess):
            running.discard(event.name)
            # Before a drain nobody asked it to end, so whatever its code says it is a failure.
            if not draining or event.returncode != 0:
                say("\n".join([f"{event.name} {event.how_it_ended()}; its last lines:", *_quoted(event)]))
                failed = True
        elif draining:
            say(f"{event.name} again: killing what is left.")
            failed = _kill(suite)
        if running and not draining:
            draining = True
            say("Draining the rest." if isinstance(event, ServiceProcess) else f"{event.name}: draining.")
            suite.drain()
    say("Stopped.")
    return EXIT_FAILED if failed else EXIT_OK


def _quoted(process: ServiceProcess) -> list[str]:
    path, said = process.last_words()
    return [*(f"  {process.name}: {line}" for line in said), f"  (all of it: {path})"]


def _kill(suite: Suite) -> bool:
    for process in suite.processes.values():
        process.send(signal.SIGKILL)
    return True
