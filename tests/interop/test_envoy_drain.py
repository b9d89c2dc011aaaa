"""The image's gateway at SIGTERM: calls go on elsewhere, and streams have their time."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelkeep.gateway import DESCRIPTOR_SET, drain
from modelkeep.record.v1 import record_service_pb2 as records
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from support.gateways import free_port, image_environment
from support.suite import service_suite
from support.waiting import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_DELAY_S, _LIMIT_S = 3.0, 8.0
#: What a drain's program may take to start on a machine that has other things to do.
_SLACK_S = 20.0


class ImageGateway:
    """A gateway as its image starts it."""

    def __init__(self, folder: Path, record: str) -> None:
        folder.mkdir()
        self.port = free_port()
        self._process = subprocess.Popen(
            [
                *("sh", str(DEPLOY / "docker/gateway.sh"), f"@{DEPLOY / 'envoy/plain.args'}", "--no-pages"),
                *("--host", "127.0.0.1", "--port", str(self.port), "--name", "any", "--record", record),
                *("--descriptor-set", str(DESCRIPTOR_SET)),
            ],
            env=image_environment(folder, _DELAY_S, _LIMIT_S),
        )

    def wait_ready(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)

    def tell(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        return self._process.wait(timeout_s)

    def end(self) -> None:
        self.tell()
        self._process.wait()


@pytest.fixture
def gateways() -> Iterator[tuple[ImageGateway, ImageGateway]]:
    with (
        tempfile.TemporaryDirectory(prefix="mk-") as made,
        service_suite(Path(made) / "data", services=("record",)) as suite,
    ):
        one, other = (ImageGateway(Path(made) / name, suite.over_tcp["record"]) for name in ("one", "other"))
        try:
            one.wait_ready()
            other.wait_ready()
            yield one, other
        finally:
            one.end()
            other.end()


def test_calls_go_on_at_another_gateway_and_a_watch_has_its_time(
    gateways: tuple[ImageGateway, ImageGateway],
) -> None:
    one, other = gateways
    # As a Service does while there are endpoints: the first that takes the connection.
    both = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
    over, watched = threading.Event(), threading.Event()
    got: Counter[grpc.StatusCode] = Counter()
    frames: list[float] = []

    def call() -> None:
        with grpc.insecure_channel(both, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = rpc.RecordServiceStub(channel)
            while not over.is_set():
                try:
                    stub.ListModels(records.ListModelsRequest(), timeout=30)
                    got[grpc.StatusCode.OK] += 1
                except grpc.RpcError as error:
                    got[error.code()] += 1

    def watch() -> grpc.StatusCode | None:
        with grpc.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            request = records.WatchModelsRequest()
            request.bookmark_interval.FromSeconds(1)
            try:
                for _ in rpc.RecordServiceStub(channel).WatchModels(request):
                    frames.append(time.monotonic())
                    watched.set()
            except grpc.RpcError as error:
                return error.code()
        return None

    with ThreadPoolExecutor(5) as threads:
        try:
            watching = threads.submit(watch)
            calling = [threads.submit(call) for _ in range(4)]
            assert watched.wait(60)
            wait_until(lambda: got[grpc.StatusCode.OK] > 50, timeout_s=60)
            told = time.monotonic()
            one.tell()
            assert one.wait(_DELAY_S + _LIMIT_S + _SLACK_S) == 0
            took = time.monotonic() - told
            before = got[grpc.StatusCode.OK]
            wait_until(lambda: got[grpc.StatusCode.OK] > before + 50, timeout_s=60)
        finally:
            over.set()
        for one_of in calling:
            one_of.result()
        assert watching.result() == grpc.StatusCode.UNAVAILABLE
    assert got.keys() == {grpc.StatusCode.OK}, got
    assert took > _DELAY_S + _LIMIT_S
    assert frames[-1] - told > _DELAY_S + _LIMIT_S - 2


def test_a_gateway_without_streams_ends_as_soon_as_nobody_is_led_to_it(
    gateways: tuple[ImageGateway, ImageGateway],
) -> None:
    one, _ = gateways
    with grpc.insecure_channel(f"127.0.0.1:{one.port}") as idle:
        rpc.RecordServiceStub(idle).ListModels(records.ListModelsRequest(), timeout=30)
        told = time.monotonic()
        one.tell()
        # It still takes who comes.
        with grpc.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            rpc.RecordServiceStub(channel).ListModels(records.ListModelsRequest(), timeout=30)
        # And gives up who keeps his connection.
        wait_until(lambda: "\nconnection: close" in headers(one.port), timeout_s=_SLACK_S)
        assert one.wait(_DELAY_S + _LIMIT_S + _SLACK_S) == 0
        assert time.monotonic() - told > _DELAY_S


def headers(port: int) -> str:
    """What comes before the answer to a call over HTTP/1.1."""
    command = ["curl", "-sS", "-o", "/dev/null", "-D", "-", f"http://127.0.0.1:{port}/v1/models"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("wrong", ["", ".", "30s", "1.2.3", "-1"])
@pytest.mark.parametrize("name", ["DRAIN_DELAY_S", "DRAIN_S"])
def test_seconds_that_are_none_end_a_start_and_not_a_drain(tmp_path: Path, name: str, wrong: str) -> None:
    environment = image_environment(tmp_path) | {f"MODELKEEP_GATEWAY_{name}": wrong}
    done = subprocess.run(
        ["sh", str(DEPLOY / "docker/gateway.sh"), "--no-such-argument"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert f"are seconds, and not '{wrong}'" in done.stderr


def test_who_cannot_be_drained_is_not_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As while Envoy starts: what calls this ends it then."""
    asked = [str(tmp_path / "admin.sock"), "--delay-s", "60", "--limit-s", "60"]
    assert drain.main(asked) == 1
    assert "cannot drain: [Errno 2]" in capfd.readouterr().err
