"""GetModel requests per second against a trivial handler behind the same interceptors, driven by ghz.

The server has one core, ghz the other; both servers run all the time and are driven in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
from figures import Spread, cpu_seconds, interleaved, ratios, report

from modelkeep.model.v1 import model_pb2, taxonomy_pb2
from modelkeep.record.v1 import record_service_pb2 as pb
from modelkeep.record.v1 import record_service_pb2_grpc as rpc
from modelkeep.rpc import Address, TokenFile, open_channel
from modelkeep.supervisor import Suite

ROUNDS = 5
SECONDS = 4
RECORDS = 2000
ROOT = Path(__file__).resolve().parents[2]


def find_ghz() -> str:
    """The load generator; `make test-all` and `make bench` install it into .cache/bin."""
    path = shutil.which("ghz", path=f"{ROOT / '.cache' / 'bin'}:{os.environ.get('PATH', '')}")
    if path is None:
        raise SystemExit("ghz is missing: go install github.com/bojand/ghz/cmd/ghz (make bench does it)")
    return path


class Load:
    """Drives one address with ghz for a few seconds, and remembers what the server spent.

    Args:
        address: The server's.
        pid: Its process.
        method: Which one of RecordService.
        request: JSON of it, perhaps with ghz's variables.
        clients: How many call at once.
        token: What they show.
    """

    def __init__(
        self, address: str, pid: int, method: str, request: str, *, clients: int, token: str
    ) -> None:
        core = cores()[1]
        self._command = [
            *("taskset", "-c", str(core), find_ghz(), "--insecure", "-O", "json"),
            *("--call", f"modelkeep.record.v1.RecordService/{method}"),
            *("--protoset", str(ROOT / "clients/python/modelkeep/api.binpb")),
            *("-m", json.dumps({"authorization": f"Bearer {token}"}), "-d", request),
            *("-c", str(clients), "--connections", str(min(clients, 4)), "-z", f"{SECONDS}s", address),
        ]
        self._pid = pid
        self.cpu_us: list[float] = []
        self.p99_ms: list[float] = []

    def run(self) -> float:
        """Requests per second."""
        before = cpu_seconds(self._pid)
        result = json.loads(subprocess.run(self._command, check=True, capture_output=True).stdout)
        answered = int(result["statusCodeDistribution"]["OK"])
        self.cpu_us.append((cpu_seconds(self._pid) - before) / answered * 1e6)
        self.p99_ms.append(
            next(d["latency"] for d in result["latencyDistribution"] if d["percentage"] == 99) / 1e6
        )
        return answered / float(result["total"]) * 1e9


def cores() -> tuple[int, int]:
    """One for the servers and one for the load."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def keep_to_one_core(*pids: int) -> None:
    """Have servers run where the load does not."""
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {cores()[0]})


@contextmanager
def trivial(
    response: pb.GetModelResponse, folder: Path, port: int, tokens: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The trivial server as a process that knows the same callers."""
    file = folder / "response.binpb"
    file.write_bytes(response.SerializeToString())
    script = Path(__file__).parent / "trivial_record.py"
    log = (folder / "trivial.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, str(script), str(file), str(port), str(tokens)], stdout=log, stderr=log
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield process
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def fill(address: Address) -> pb.GetModelResponse:
    """Some thousand records; the answer for the one that is asked for."""
    with open_channel(address) as channel:
        stub = rpc.RecordServiceStub(channel)
        last = pb.CreateModelResponse()
        for n in range(RECORDS):
            last = stub.CreateModel(
                pb.CreateModelRequest(
                    model=model_pb2.Model(
                        name=f"model {n}",
                        description="a description of usual length " * 5,
                        type=taxonomy_pb2.MODEL_TYPE_MAIN,
                        format=taxonomy_pb2.MODEL_FORMAT_DIFFUSERS,
                        base="sdxl",
                        path=f"/models/{n}",
                        tags=["sfw", "scenery"],
                        main=model_pb2.MainConfig(variant=taxonomy_pb2.MODEL_VARIANT_NORMAL),
                    )
                )
            )
        return stub.GetModel(pb.GetModelRequest(key=last.model.key))


def main() -> bool:
    """Run and print; whether the bar holds."""
    with Suite(services=("record",)) as suite, tempfile.TemporaryDirectory() as scratch:
        address = suite.addresses["record"]
        tokens = suite.data_dir / "run" / "tokens"
        owners = TokenFile(tokens / "owner")
        response = fill(Address("record", address, "the suite", token=owners))
        port = int(address.rpartition(":")[2])
        with trivial(response, Path(scratch), port + 1, tokens / "accepted.json") as process:
            keep_to_one_core(suite.pids["record"], process.pid)
            asked = json.dumps({"key": response.model.key})
            load = partial(Load, method="GetModel", request=asked, clients=100, token=owners())
            real = load(address, suite.pids["record"])
            peer = load(f"127.0.0.1:{port + 1}", process.pid)
            real.run(), peer.run()
            time.sleep(1)
            ours, theirs = interleaved(real.run, peer.run, rounds=ROUNDS)
    ratio = ratios(ours, theirs)
    report("GetModel", Spread.of(ours).text("requests/s", 0), "-", None)
    report("trivial handler, same interceptors", Spread.of(theirs).text("requests/s", 0), "-", None)
    report("GetModel, server's CPU per request", Spread.of(real.cpu_us).text("µs", 0), "-", None)
    report("trivial handler, server's CPU per request", Spread.of(peer.cpu_us).text("µs", 0), "-", None)
    report(
        "GetModel p99 / trivial p99, both saturated", ratios(real.p99_ms, peer.p99_ms).text("x"), "-", None
    )
    return report("GetModel / trivial, requests per second", ratio.text("x"), ">= 0.75", ratio.median >= 0.75)


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
