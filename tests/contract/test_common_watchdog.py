"""A process that stopped answering ends itself and says where it hung; one that works does not."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from modelkeep.defaults import EXIT_HUNG
from support.commonapp import SERVICE

pytestmark = pytest.mark.timeout(120)

_MAIN = """
import asyncio, re, sys, time
from google.protobuf.wrappers_pb2 import StringValue
from modelkeep_common.serving import run
from modelkeep_common.settings import load_settings
from support.commonapp import App, AppSettings, roles_of

async def hold_the_interpreter(request, context):
    re.match("(a+)+$", "a" * 100 + "b")

async def block_the_loop(request, context):
    time.sleep(600)

async def take_long(request, context):
    await asyncio.sleep(4)
    return StringValue(value="done")

async def open_slowly():
    time.sleep(3)

async def drain_slowly():
    await asyncio.sleep(3)

handlers = {"Hold": hold_the_interpreter, "Block": block_the_loop, "Long": take_long}
app = App(handlers, on_open=open_slowly, on_drain=drain_slowly)
sys.exit(run(lambda _: app, load_settings(AppSettings, sys.argv[1:]), allowed=roles_of(*handlers)))
"""


def start(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, "--port", "0", "--insecure", *flags],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
        text=True,
    )


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("{") and (line := json.loads(text))["message"] == "serving":
            return str(line["address"])
    raise AssertionError(f"ended with {process.wait()}")


def call(channel: grpc.Channel, method: str) -> Any:
    stub: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    return stub.future(b"", timeout=90, wait_for_ready=True)


@pytest.fixture(scope="module")
def slow_one() -> Iterator[subprocess.Popen[str]]:
    """Started before all tests: it takes its time while others stand still."""
    with start("--watchdog-s", "2") as process:
        yield process
        process.kill()


def test_a_process_that_stands_still_ends_with_a_traceback(slow_one: subprocess.Popen[str]) -> None:
    places = {"Hold": "hold_the_interpreter", "Block": "block_the_loop"}
    processes = {method: start("--watchdog-s", "2") for method in places}
    with contextlib.ExitStack() as channels:
        answers = {}
        for method, process in processes.items():
            channel = channels.enter_context(grpc.insecure_channel(address_of(process)))
            answers[method] = call(channel, method)
        for method, process in processes.items():
            _, rest = process.communicate(timeout=60)
            assert answers[method].code() == grpc.StatusCode.UNAVAILABLE
            assert process.returncode == 1
            assert "Timeout (0:00:02)!" in rest
            assert places[method] in rest


@pytest.mark.long
def test_slow_starts_calls_and_drains_do_not_count_as_standing_still(
    slow_one: subprocess.Popen[str],
) -> None:
    with grpc.insecure_channel(address_of(slow_one)) as channel:
        assert call(channel, "Long").result(60)
    slow_one.terminate()
    _, rest = slow_one.communicate(timeout=60)
    assert slow_one.returncode == 0, rest


def test_a_drain_that_turns_and_never_ends_is_given_up() -> None:
    process = start("--drain-watchdog-s", "0.5")
    address_of(process)
    process.terminate()
    _, rest = process.communicate(timeout=60)
    assert (process.returncode, "the drain hangs" in rest) == (EXIT_HUNG, True)
