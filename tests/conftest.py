"""Fixtures that every test has, and what is watched around each."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings
from typer.main import get_command

from support.httpserver import HttpServer
from support.processes import processes_of
from support.suite import OwnersSuite, service_suite

# In CI the same examples every time, so that a red run is about the change; at a desk new ones each time.
settings.register_profile("ci", derandomize=True, max_examples=60, deadline=None)
settings.register_profile(
    "desk", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

#: Source folders whose code must not block an event loop.
_WATCHED = (
    "modelkeep_common",
    "modelkeep_record",
    "modelkeep_download",
    "modelkeep_install",
    "modelkeep_loader",
    "modelkeep_convert",
    "modelkeep_devices",
)


#: In the environment of every process that a run of the tests starts: the temporary folder of the run.
_RUN = "TMPDIR"


def pytest_configure(config: pytest.Config) -> None:
    """Keep settings of the caller's shell out of the tests, and give them a temporary folder of their own."""
    for name in [name for name in os.environ if name.startswith(("MODELKEEP_", "HF_", "HUGGING"))]:
        if not name.startswith("MODELKEEP_KILL_"):
            del os.environ[name]
    # A shell's background jobs ignore Ctrl-C, and so would every process that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # tmp_path stays, to be looked at
    # Beside that of the run which has this process do a part of its tests: paths of sockets are short.
    root = os.environ["PYTEST_DEBUG_TEMPROOT"]
    os.environ[_RUN] = tempfile.tempdir = tempfile.mkdtemp(prefix="mk-", dir=root)
    # Threads of torch spin while they wait for each other: with several files at once, tiny models cost ten
    # times the processor time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Contexts of whoever runs the tests are not theirs, and neither is what the hub's client keeps for him.
    os.environ["XDG_CONFIG_HOME"] = os.environ["HF_HOME"] = os.environ[_RUN]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take away what tests left that failed or were stopped in their middle: processes and folders."""
    folder = os.environ[_RUN]
    for process in processes_of(_RUN, folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty folder with a short path, since UNIX socket names below it may have 107 bytes.

    What a test puts beside it goes with it: models to import, which cannot lie inside.
    """
    parent = Path(tempfile.mkdtemp(prefix="mk-"))
    (parent / "data").mkdir()
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """An empty folder with a short path, for all tests of a module."""
    made = Path(tempfile.mkdtemp(prefix="mk-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def web() -> Iterator[HttpServer]:
    """A web server that serves, and breaks off, as a test tells it."""
    with HttpServer() as server:
        yield server


@pytest.fixture(scope="module")
def suite_options() -> dict[str, Any]:
    """Arguments of `service_suite` for the fixture `suite`; a module may have its own."""
    return {}


@pytest.fixture(scope="module")
def suite(suite_options: dict[str, Any]) -> Iterator[OwnersSuite]:
    """A suite of real services, one for all tests of a module."""
    with service_suite(**suite_options) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def _grpc_stays() -> Iterator[None]:
    """Keep gRPC's poller between tests: else the garbage collector ends it, in whichever test it runs."""
    grpc.aio.init_grpc_aio()
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(scope="session", autouse=True)
def _commands_are_made_once() -> Iterator[None]:
    """Making the command line's commands takes a tenth of a second, and a thousand tests give one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(get_command))
        yield


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    return BlockBuster(scanned_modules=[name for name in _WATCHED if importlib.util.find_spec(name)])


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest, _blockbuster: BlockBuster) -> Iterator[None]:
    """Blocking calls made by a service's code on a running event loop raise BlockingError.

    ``@pytest.mark.may_block`` on a test turns it off; say why next to it.
    """
    if request.node.get_closest_marker("may_block") or not request.node.get_closest_marker("asyncio"):
        yield
        return
    _blockbuster.activate()
    try:
        yield
    finally:
        _blockbuster.deactivate()


@pytest.fixture(autouse=True)
def _settings_stay() -> Iterator[None]:
    """What a test has told the command line, which keeps it in the environment, is that test's alone."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MODELKEEP_")}
    yield
    for name in [name for name in os.environ if name.startswith("MODELKEEP_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def no_litter(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves no thread that would keep the process alive."""
    before = set(threading.enumerate())
    yield
    left = [
        t
        for t in set(threading.enumerate()) - before
        # Executors' threads end with their loop, which may be one of all tests of a module.
        if not t.daemon and not t.name.startswith(("asyncio_", "ThreadPoolExecutor"))
    ]
    for thread in left:
        thread.join(1.0)
    stuck = [t.name for t in left if t.is_alive()]
    assert not stuck, f"threads left behind: {stuck}"
