"""Long streams and failing services behind real Envoys."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelkeep.gateway import Gateway
from modelkeep.record.v1 import record_service_pb2 as records
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from support import countingrecords
from support.gateways import free_port, running
from support.suite import service_suite

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

_IDLE_S = 2.0


def test_a_watch_on_which_nothing_happens_outlives_the_idle_time_out(data_dir: Path) -> None:
    with service_suite(data_dir / "data", services=("record",)) as suite:
        gateway = Gateway({"record": [suite.over_tcp["record"]]}, stream_idle_s=_IDLE_S)
        with running(gateway, data_dir) as address:

            def watch(bookmark: str, limit_s: float) -> tuple[list[float], int]:
                """When frames came, and curl's exit code: 28 if it was still watching at the end."""
                begun = time.monotonic()
                process = subprocess.Popen(
                    [
                        *("curl", "-sSN", "--max-time", str(limit_s)),
                        f"http://{address}/v1/models:watch?bookmark_interval={bookmark}",
                    ],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                assert process.stdout is not None
                frames = []
                with process.stdout:
                    for line in process.stdout:
                        assert json.loads(line)["resumeToken"]
                        frames.append(time.monotonic() - begun)
                return frames, process.wait()

            with ThreadPoolExecutor(2) as threads:
                lively = threads.submit(watch, "1s", 4 * _IDLE_S)
                # Without bookmarks in between the time-out does its work: the test could fail.
                silent = threads.submit(watch, "30s", 30)
            frames, code = lively.result()
            assert code == 28, "the watch was cut"
            assert frames[-1] > 3 * _IDLE_S
            assert silent.result()[1] != 28


class Instances:
    """Two processes that stand in for RecordService, and note each call."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port(), free_port()]
        self._notes = folder / "notes"
        self._processes = [self._start(port) for port in self.ports]

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, countingrecords.__file__, str(port), str(self._notes)], env={**os.environ}
        )
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        return process

    def end(self, place: int, signum: signal.Signals) -> None:
        """End one, and start it again on its port."""
        self._processes[place].send_signal(signum)
        self._processes[place].wait()
        self._processes[place] = self._start(self.ports[place])

    def wait_for_calls(self) -> None:
        """Wait until each gets calls, also one that Envoy had left out for a while."""
        begun = self._notes.stat().st_size if self._notes.exists() else 0
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(FileNotFoundError), self._notes.open() as notes:
                notes.seek(begun)
                if all(f"at {port}\n" in text for text in [notes.read()] for port in self.ports):
                    return
            assert time.monotonic() < deadline, "one of the two gets no calls"
            time.sleep(0.05)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def calls(self) -> Counter[str]:
        """How often each call came."""
        return Counter(line.partition(" at ")[0] for line in self._notes.read_text().splitlines())


def test_calls_that_may_be_sent_twice_survive_a_kill_and_a_drain_and_others_are_sent_once(
    data_dir: Path,
) -> None:
    instances = Instances(data_dir)
    gateway = Gateway({"record": [f"127.0.0.1:{port}" for port in instances.ports]})
    over = threading.Event()
    got: list[grpc.StatusCode] = []
    created: dict[str, grpc.StatusCode] = {}
    try:
        with running(gateway, data_dir) as address, grpc.insecure_channel(address) as channel:
            stub = rpc.RecordServiceStub(channel)

            def get() -> None:
                while not over.is_set():
                    try:
                        stub.GetModel(records.GetModelRequest(key=uuid.uuid4().hex), timeout=60)
                        got.append(grpc.StatusCode.OK)
                    except grpc.RpcError as error:
                        got.append(error.code())

            def create() -> None:
                while not over.is_set():
                    request_id = str(uuid.uuid4())
                    try:
                        stub.CreateModel(records.CreateModelRequest(request_id=request_id), timeout=60)
                        created[request_id] = grpc.StatusCode.OK
                    except grpc.RpcError as error:
                        created[request_id] = error.code()

            with ThreadPoolExecutor(12) as threads:
                loads = [threads.submit(work) for work in [get] * 6 + [create] * 6]
                try:
                    for place, signum in enumerate((signal.SIGKILL, signal.SIGTERM)):
                        instances.wait_for_calls()
                        instances.end(place, signum)
                    instances.wait_for_calls()
                finally:
                    over.set()
                for load in loads:
                    load.result()
    finally:
        instances.close()

    assert Counter(got).keys() == {grpc.StatusCode.OK}, Counter(got)
    times = {name: count for name, count in instances.calls().items() if name.startswith("create ")}
    assert set(times.values()) == {1}
    # The kill met some of them, so there was something to send twice.
    lost = {*created.values()} - {grpc.StatusCode.OK}
    assert lost
    assert lost <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert all(f"create {name}" in times for name, code in created.items() if code == grpc.StatusCode.OK)
