"""A component ready in one more worker, against from_pretrained with the same cast; what a lease costs.

The model is a diffusers folder with random weights in true sizes: an AutoencoderKL as SDXL has it (335 MB of
fp32 on disk) and a UNet2DConditionModel as Stable Diffusion 1.5 has it (3.4 GB), held as bfloat16. Each
figure comes from a fresh process whose imports are done; from_pretrained finds the files in the page cache.
"ready" ends when the module can be called, "touched" when every page of its weights was read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
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


# In the child processes.


def build(folder: str) -> None:
    """Write both components in diffusers' layout."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
        force_upcast=True,
    ).save_pretrained(f"{folder}/vae")
    with torch.device("meta"):  # its own way to draw initial values takes half a minute
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    unet = unet.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.uniform_(-0.02, 0.02)
    unet.save_pretrained(f"{folder}/unet")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    Path(folder, "model_index.json").write_text(json.dumps(index), encoding="ascii")


def attach(address: str, key: str, submodel: str) -> None:
    """Hold a component as a user's worker does."""
    model_class(submodel)  # imported before the clock runs, as from_pretrained's user did

    from modelkeep.worker import ModelLoader

    with start_signal(), ModelLoader(address) as loader:
        before, began = anonymous_bytes(), time.perf_counter()
        info = loader.get_model(key, submodel, precision="bfloat16")
        loaded = time.perf_counter()
        with info as module:
            finish(module, before, began, get_model=loaded - began, lease=info.context.lease_id)
            sys.stdin.readline()


def from_pretrained(folder: str, submodel: str) -> None:
    """Load it as diffusers does."""
    import torch

    cls = model_class(submodel)
    with start_signal():
        before, began = anonymous_bytes(), time.perf_counter()
        module = cls.from_pretrained(folder, subfolder=submodel, torch_dtype=torch.bfloat16)
        finish(module, before, began)
        sys.stdin.readline()


def model_class(submodel: str) -> Any:
    """diffusers' class of a component."""
    import diffusers

    return diffusers.AutoencoderKL if submodel == "vae" else diffusers.UNet2DConditionModel


@contextmanager
def start_signal() -> Iterator[None]:
    """Say that the imports are done, and wait for the turn."""
    print(json.dumps({"imported": True}), flush=True)
    sys.stdin.readline()
    yield


def finish(module: Any, before: int, began: float, **facts: Any) -> None:
    """Print what was measured."""
    import torch

    ready = time.perf_counter() - began
    page = os.sysconf("SC_PAGE_SIZE")
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.detach().reshape(-1).view(torch.uint8)[::page].sum()
    touched = time.perf_counter() - began
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    private = anonymous_bytes() - before
    print(
        json.dumps({"ready": ready, "touched": touched, "private": private, "size": size, **facts}),
        flush=True,
    )


def anonymous_bytes() -> int:
    """Memory of this process that belongs to no file: what a copy of weights would be."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not count anonymous memory")


# In the benchmark.


class Child:
    """One of the functions of a benchmark in a fresh process."""

    def __init__(self, role: str, *arguments: str, script: str = __file__) -> None:
        self._role = role
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def answer(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self._role} process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self) -> dict[str, Any]:
        """Let it do what it is for."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()

    def kill(self) -> None:
        """SIGKILL; returns at once."""
        self._process.kill()

    def close(self) -> None:
        """Wait for its end."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()


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


def measure(suite: Suite, folder: Path) -> bool:
    """Install, load, measure, print."""
    at = suite.sockets
    with Client(
        record=at["record"], download=at["download"], install=at["install"], loader=at["loader"]
    ) as client:
        job = client.model_install.import_model(folder)
        client.model_install.wait_for_installs(timeout=120)
        assert job.config_out is not None, job.error
        key = job.config_out.key
        wait_for_digests(at["record"], key)
        client.model_loader.load(key, READY_BARS, precision="bfloat16")
    held: list[bool] = []
    with grpc.insecure_channel(at["loader"]) as channel:
        stub = rpc.LoaderServiceStub(channel)
        for submodel, bar in READY_BARS.items():
            rounds = [
                one_round(stub, at["loader"], key, str(folder), submodel, n % 2 == 0) for n in range(ROUNDS)
            ]
            held += report_worker(submodel, bar, rounds)
        held += report_grants(grant_times(stub, key))
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


def main() -> bool:
    """Run and print; whether every bar holds."""
    with tempfile.TemporaryDirectory(prefix="modelkeep-bench-") as scratch:
        folder = Path(scratch, "pipeline")
        subprocess.run([sys.executable, "-W", "ignore", __file__, "build", str(folder)], check=True)
        with Suite(Path(scratch, "data")) as suite:
            return measure(suite, folder)


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {
        "build": build,
        "attach": attach,
        "from_pretrained": from_pretrained,
    }
    if len(sys.argv) > 1:
        roles[sys.argv[1]](*sys.argv[2:])
    else:
        raise SystemExit(0 if main() else 1)
