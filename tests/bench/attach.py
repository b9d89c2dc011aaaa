"""Components of a loader in workers, against from_pretrained and other ways; what a lease costs.

Rows and bars are those that the loader was designed for (docs/benchmarks.md); sharing.py has those of one
dtype, of an evicted page cache, of several workers, of a killed loader, and of InvokeAI's own cache.
``--shrink 4 --rounds 1`` shows within minutes that all of it works. The models are those of attachroles.py,
with random weights. Each figure comes from a fresh process whose imports are done; from_pretrained finds the
files in the page cache unless it says otherwise. "ready" ends when the module can be called, "touched" when
every page of its weights was read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import sharing
from attachroles import Child
from figures import Spread, ratios, report

from modelkeep.client import Client
from modelkeep.loader.v1 import hold_pb2, leases_pb2, resident_pb2
from modelkeep.loader.v1 import loader_service_pb2_grpc as rpc
from modelkeep.record.v1 import record_service_pb2, record_service_pb2_grpc
from modelkeep.supervisor import Suite

ROUNDS = 7
GRANTS = 200
#: Submodel → times as fast as from_pretrained that it should be ready.
READY_BARS = {"vae": 8.0, "unet": 25.0}
PRIVATE_BAR = 0.02
P50_BAR_MS = 2.0
P99_BAR_MS = 20.0
LEASE_BAR_S = 1.0


def lease_end(stub: rpc.LoaderServiceStub, child: Child, lease: str) -> float:
    """Kill the holder of a lease; seconds until ListLeases has it no more."""
    began = time.perf_counter()
    child.kill()
    while True:
        left = stub.ListLeases(leases_pb2.ListLeasesRequest()).leases
        seconds = time.perf_counter() - began
        if all(found.id != lease or found.state == resident_pb2.LEASE_STATE_ENDED for found in left):
            return seconds
        if seconds > 30:
            raise RuntimeError("the lease of a killed worker does not end")
        time.sleep(0.001)


def one_round(
    stub: rpc.LoaderServiceStub, address: str, key: str, folder: str, submodel: str, ours_first: bool
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """(ours, theirs, seconds until the lease of our killed worker ended)."""
    children = {
        "attach": Child("attach", address, key, submodel),
        "from_pretrained": Child("from_pretrained", folder, submodel),
    }
    try:
        for child in children.values():
            child.answer()
        time.sleep(0.2)
        order = ("attach", "from_pretrained") if ours_first else ("from_pretrained", "attach")
        results = {role: children[role].run() for role in order}
        gone = lease_end(stub, children["attach"], results["attach"]["lease"])
        return results["attach"], results["from_pretrained"], gone
    finally:
        for child in children.values():
            child.close()


def grant_times(stub: rpc.LoaderServiceStub, key: str) -> list[float]:
    """Milliseconds of each AcquireLease on a resident component, sorted."""
    request = hold_pb2.AcquireLeaseRequest(
        components=[
            resident_pb2.ComponentRef(key=key, submodel="SUB_MODEL_TYPE_VAE", precision="PRECISION_BFLOAT16")
        ],
        delivery=hold_pb2.DELIVERY_FD,
        pid=os.getpid(),
    )
    request.ttl.FromSeconds(30)
    times = []
    for _ in range(GRANTS + 10):
        began = time.perf_counter()
        grant = stub.AcquireLease(request).grant
        times.append((time.perf_counter() - began) * 1000)
        stub.ReleaseLease(
            hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
        )
    return sorted(times[10:])


def wait_for_digests(record: str, key: str) -> None:
    """Wait until the files are hashed in the background: until then the weights have another identity."""
    with grpc.insecure_channel(record) as channel:
        stub = record_service_pb2_grpc.RecordServiceStub(channel)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            files = stub.ListModelFiles(record_service_pb2.ListModelFilesRequest(key=key)).files
            if files and all(file.sha256 for file in files):
                return
            time.sleep(0.2)
    raise RuntimeError("the files of the model are not hashed")


def measure(suite: Suite, folder: Path, rounds_wanted: int) -> bool:
    """Install, load, measure, print."""
    at = suite.sockets
    with Client(
        record=at["record"], download=at["download"], install=at["install"], loader=at["loader"]
    ) as client:
        keys = []
        for name in ("pipeline", "xl"):
            job = client.model_install.import_model(folder / name)
            client.model_install.wait_for_installs(timeout=300)
            assert job.config_out is not None, job.error
            keys.append(job.config_out.key)
            wait_for_digests(at["record"], keys[-1])
        key, large = keys
        client.model_loader.load(key, READY_BARS, precision="bfloat16")
        client.model_loader.load(key, ["vae"], precision="float32")
        client.model_loader.load(large, ["unet"], precision="bfloat16")
    held: list[bool] = []
    with grpc.insecure_channel(at["loader"]) as channel:
        stub = rpc.LoaderServiceStub(channel)
        for submodel, bar in READY_BARS.items():
            rounds = [
                one_round(stub, at["loader"], key, str(folder / "pipeline"), submodel, n % 2 == 0)
                for n in range(rounds_wanted)
            ]
            held += report_worker(submodel, bar, rounds)
        held += report_grants(grant_times(stub, key))
    setting = sharing.Setting(suite, folder, key, large, rounds_wanted)
    held += sharing.measure(setting)
    return all(held)


def report_worker(
    submodel: str, bar: float, rounds: list[tuple[dict[str, Any], dict[str, Any], float]]
) -> list[bool]:
    """Print what the rounds of one component gave."""
    ours, theirs = [r[0] for r in rounds], [r[1] for r in rounds]

    def milliseconds(results: list[dict[str, Any]], name: str) -> str:
        return Spread.of([result[name] * 1000 for result in results]).text("ms", 1)

    held: list[bool] = []
    for name in ("ready", "touched"):
        print(
            f"  {name:<16} attached {milliseconds(ours, name)}, from_pretrained {milliseconds(theirs, name)}"
        )
        ratio = ratios([r[name] for r in theirs], [r[name] for r in ours])
        held.append(
            report(
                f"{submodel} {name} in one more worker, times as fast",
                ratio.text("x", 1),
                f">= {bar:.0f}x" if name == "ready" else "none",
                ratio.median >= bar if name == "ready" else None,
            )
        )
    print(f"  {'of that':<16} get_model {milliseconds(ours, 'get_model')}")
    size = ours[0]["size"]
    private = Spread.of([result["private"] / 1e6 for result in ours])
    peers = Spread.of([result["private"] / 1e6 for result in theirs])
    gone = Spread.of([r[2] * 1000 for r in rounds])
    held += [
        report(
            f"private memory of one more worker, weights {size / 1e6:.0f} MB",
            f"{private.text('MB', 1)}; from_pretrained {peers.median:.0f} MB",
            f"<= {PRIVATE_BAR:.0%}",
            private.median * 1e6 <= PRIVATE_BAR * size,
        ),
        report(
            "lease gone after SIGKILL of the worker",
            gone.text("ms", 0),
            f"<= {LEASE_BAR_S:g} s",
            gone.high <= LEASE_BAR_S * 1000,
        ),
    ]
    return held


def report_grants(times: list[float]) -> list[bool]:
    """Print what a grant costs; `times` in milliseconds, sorted."""
    held: list[bool] = []
    for name, bar in (("p50", P50_BAR_MS), ("p99", P99_BAR_MS)):
        found = times[len(times) * int(name[1:]) // 100]
        held.append(
            report(
                f"lease grant on a resident component, {name}",
                f"{found:.2f} ms",
                f"<= {bar:g} ms",
                found <= bar,
            )
        )
    return held


def main(shrink: int = 1, rounds: int = ROUNDS) -> bool:
    """Run and print; whether every bar holds."""
    roles = str(Path(__file__).with_name("attachroles.py"))
    with tempfile.TemporaryDirectory(prefix="modelkeep-bench-") as scratch:
        folder = Path(scratch, "models")
        command = [sys.executable, "-W", "ignore", roles, "build", str(folder), str(shrink)]
        subprocess.run(command, check=True)
        with Suite(Path(scratch, "data")) as suite:
            return measure(suite, folder, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shrink", type=int, default=1, help="divide all widths by this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    raise SystemExit(0 if main(given.shrink, given.rounds) else 1)
