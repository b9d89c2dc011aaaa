"""Weights on a GPU, lent there or moved there by the worker: when a module is ready, against from_pretrained.

The model is that of attach.py: SDXL's VAE and SD 1.5's UNet in true sizes, random weights, lent as bfloat16.
Each figure comes from a fresh process that has done its imports and has its context on the GPU;
from_pretrained finds the files in the page cache. Without a GPU nothing is measured.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from attach import wait_for_digests
from attachroles import Child, anonymous_bytes, model_class, start_signal
from figures import Spread, ratios, report

from modelkeep.client import Client
from modelkeep.loader.v1 import hold_pb2, resident_pb2
from modelkeep.loader.v1 import loader_service_pb2_grpc as rpc
from modelkeep.supervisor import Suite

ROUNDS = 5
COPIES = 5
SUBMODELS = ("vae", "unet")
#: Milliseconds at most, and times as fast as from_pretrained; the UNet's are SDXL's, which is larger.
BARS = {"vae": (10, 8), "unet": (60, 20)}
_REGISTER_READ_ONLY = 8  # cudaHostRegisterReadOnly


# In the child processes.


def context() -> None:
    """Make this process's context on the GPU: a fixed cost, whoever loads."""
    import torch

    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()


def lent(address: str, key: str, submodel: str) -> None:
    """Hold a component and move it."""
    from modelkeep.worker import ModelLoader

    model_class(submodel)
    context()
    with start_signal(), ModelLoader(address) as loader:
        began = time.perf_counter()
        with loader.get_model(key, submodel, precision="bfloat16", device="cpu") as module:
            held = time.perf_counter() - began
            ready(module.to("cuda"), began, held=held)


def attached(address: str, key: str, submodel: str) -> None:
    """Hold a component in the GPU's memory."""
    import torch

    from modelkeep.worker import ModelLoader

    model_class(submodel)
    context()
    with start_signal(), ModelLoader(address) as loader:
        free = torch.cuda.mem_get_info()[0]
        began = time.perf_counter()
        with loader.get_model(key, submodel, precision="bfloat16", device="cuda") as module:
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            ready(module, time.perf_counter() - seconds, taken=free - torch.cuda.mem_get_info()[0])


def registered_copy(address: str, key: str, submodel: str) -> None:
    """Hold a component, register its memory with the driver, and move it in one copy."""
    import torch

    from modelkeep.worker import ModelLoader

    model_class(submodel)
    context()
    with start_signal(), ModelLoader(address) as loader:
        began = time.perf_counter()
        with loader.get_model(key, submodel, precision="bfloat16", device="cpu") as module:
            view, own = shared_view(address, key, submodel)
            low, _ = span(next(module.parameters()).data_ptr())
            with Registered({}, "", view.data_ptr(), view.numel()):
                there = view.to("cuda")
                torch.cuda.synchronize()
            for parameter in module.parameters():
                at, size = parameter.data_ptr() - low, parameter.numel() * parameter.element_size()
                parameter.data = there[at : at + size].view(parameter.dtype).view(parameter.shape)
            ready(module.to("cuda"), began)
        del own


def moved(folder: str, submodel: str) -> None:
    """from_pretrained, then .to("cuda")."""
    pretrained(folder, submodel, lambda module: module.to("cuda"))


def mapped(folder: str, submodel: str) -> None:
    """from_pretrained with device_map, which reads the file onto the GPU."""
    pretrained(folder, submodel, lambda module: module, device_map="cuda")


def pretrained(folder: str, submodel: str, finish: Callable[[Any], Any], **options: Any) -> None:
    """Load as diffusers does."""
    import torch

    cls = model_class(submodel)
    context()
    with start_signal():
        began = time.perf_counter()
        module = cls.from_pretrained(folder, subfolder=submodel, torch_dtype=torch.bfloat16, **options)
        ready(finish(module), began)


def ready(module: Any, began: float, **facts: Any) -> None:
    """Print when the module could be used."""
    import torch

    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    parameters = list(module.parameters())
    assert {parameter.device.type for parameter in parameters} == {"cuda"}
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    print(
        json.dumps({"ready": seconds, "size": size, "card": torch.cuda.get_device_name(), **facts}),
        flush=True,
    )
    sys.stdin.readline()


def rates(address: str, key: str, submodel: str) -> None:
    """GiB/s from each kind of memory to the GPU."""
    import torch

    from modelkeep.worker import ModelLoader

    context()
    with start_signal(), ModelLoader(address) as loader:
        found: dict[str, Any] = {}
        with loader.get_model(key, submodel, precision="bfloat16", device="cpu") as module:
            weights = [parameter.detach().view(-1).view(torch.uint8) for parameter in module.parameters()]
            found["lent mapping, pageable, first time"] = copies(weights, 1)
            found["lent mapping, pageable"] = copies(weights)
            low, high = span(weights[0].data_ptr())
            before = anonymous_bytes()
            with Registered(found, "lent mapping, registered", low, high - low) as done:
                if done:
                    found["lent mapping, registered"] = copies(weights)
                    found["private bytes by registering it"] = anonymous_bytes() - before
            view, own = shared_view(address, key, submodel)
            found["shared read-only mapping, pageable"] = copies([view])
            before = anonymous_bytes()
            with Registered(
                found, "shared read-only mapping, registered", view.data_ptr(), view.numel()
            ) as done:
                if done:
                    found["shared read-only mapping, registered"] = copies([view])
                    found["private bytes by registering the shared one"] = anonymous_bytes() - before
            pinned = torch.empty(view.numel(), dtype=torch.uint8, pin_memory=True)
            found["pinned memory of torch"] = copies([pinned])
            del own
        print(json.dumps(found), flush=True)
        sys.stdin.readline()


class Registered:
    """Host memory that the driver knows for the time of a block; whether it took it."""

    def __init__(self, found: dict[str, Any], name: str, address: int, size: int) -> None:
        self._found, self._name, self._address, self._size = found, name, address, size
        self._done = False

    def __enter__(self) -> bool:
        began = time.perf_counter()
        code = runtime().cudaHostRegister(self._address, self._size, _REGISTER_READ_ONLY)
        self._found[f"{self._name}: ms to register"] = (time.perf_counter() - began) * 1000
        self._done = int(code) == 0
        if not self._done:
            self._found[f"{self._name}: refused"] = str(code)
        return self._done

    def __exit__(self, *_: object) -> None:
        if self._done:
            runtime().cudaHostUnregister(self._address)


def runtime() -> Any:
    """CUDA's runtime, as torch has it."""
    import torch

    cudart: Any = torch.cuda.cudart
    return cudart()


def copies(parts: list[Any], rounds: int = COPIES) -> float:
    """GiB/s of copying all parts to the GPU, one after the other; the median round."""
    import torch

    targets = [torch.empty(part.numel(), dtype=torch.uint8, device="cuda") for part in parts]
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for target, part in zip(targets, parts, strict=True):
            target.copy_(part, non_blocking=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return float(sum(part.numel() for part in parts) / statistics.median(seconds) / (1 << 30))


def span(address: int) -> tuple[int, int]:
    """The mapping that an address lies in."""
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return low, high
    raise RuntimeError("no mapping has this address")


def shared_view(address: str, key: str, submodel: str) -> tuple[Any, Any]:
    """The lent memory mapped a second time, shared and read-only; and what keeps it."""
    import numpy
    import torch

    from modelkeep.worker._fetch import fetch_descriptors

    with grpc.insecure_channel(address) as channel:
        request = hold_pb2.AcquireLeaseRequest(
            components=[component(key, submodel)], delivery=hold_pb2.DELIVERY_FD, pid=os.getpid()
        )
        grant = rpc.LoaderServiceStub(channel).AcquireLease(request).grant
        connection, (descriptor,) = fetch_descriptors(grant.socket_path, grant.ticket, 1)
    mapping = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    return torch.from_numpy(numpy.frombuffer(mapping, numpy.uint8)), (mapping, connection, descriptor)


def component(key: str, submodel: str) -> resident_pb2.ComponentRef:
    """The message that names it."""
    return resident_pb2.ComponentRef(
        key=key, submodel=f"SUB_MODEL_TYPE_{submodel.upper()}", precision="PRECISION_BFLOAT16"
    )


# In the benchmark.


def one_round(roles: dict[str, tuple[str, ...]], turn: int) -> dict[str, dict[str, Any]]:
    """Each role once, in fresh processes; who begins changes."""
    children = {role: Child(role, *arguments, script=__file__) for role, arguments in roles.items()}
    try:
        for child in children.values():
            child.answer()
        order = list(children)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        results = {}
        for role in order:
            results[role] = children[role].run()
            children[role].close()  # its memory of the GPU goes before the next one begins
        return results
    finally:
        for child in children.values():
            child.close()


def measure(suite: Suite, folder: Path) -> None:
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
        client.model_loader.load(key, SUBMODELS, precision="bfloat16")
    for submodel in SUBMODELS:
        roles = {
            "attached": (at["loader"], key, submodel),
            "lent": (at["loader"], key, submodel),
            "registered_copy": (at["loader"], key, submodel),
            "moved": (str(folder), submodel),
            "mapped": (str(folder), submodel),
        }
        one_round({"attached": roles["attached"]}, 0)  # brings it there
        report_ready(submodel, [one_round(roles, turn) for turn in range(ROUNDS)])
    for name, value in one_round({"rates": (at["loader"], key, "unet")}, 0)["rates"].items():
        unit = "" if isinstance(value, str) or ": ms" in name or "bytes" in name else "GiB/s"
        print(f"  {name:<52} {value if isinstance(value, str) else format(value, ',.1f')} {unit}")


def report_ready(submodel: str, rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Print what the rounds of one component gave."""
    first = rounds[0]["lent"]
    print(f"  {submodel}: {first['size'] / 1e6:,.0f} MB, on {first['card']}")

    def times(role: str, name: str = "ready") -> list[float]:
        return [result[role][name] for result in rounds]

    for role in ("attached", "lent", "registered_copy", "moved", "mapped"):
        print(f"  {role:<16} {Spread.of([seconds * 1000 for seconds in times(role)]).text('ms', 1)}")
    held = Spread.of([seconds * 1000 for seconds in times("lent", "held")])
    print(f"  of lent, until it is held on the CPU {held.text('ms', 1)}")
    taken = max(times("attached", "taken"))
    report(f"{submodel} lent there: more memory taken", f"{taken:,.0f} bytes", "0", taken <= 0)
    most_ms, least = BARS[submodel]
    there = Spread.of([seconds * 1000 for seconds in times("attached")])
    report(f"{submodel} lent there, ready", there.text("ms", 1), f"{most_ms} ms", there.median <= most_ms)
    quicker = ratios(times("mapped"), times("attached"))
    report(
        f"{submodel} lent there, times as fast as from_pretrained device_map",
        quicker.text("x", 1),
        f"{least}x",
        quicker.median >= least,
    )
    for role, shown in (("moved", '.to("cuda")'), ("mapped", "device_map")):
        ratio = ratios(times(role), times("lent"))
        report(
            f"{submodel} moved there, times as fast as from_pretrained {shown}",
            ratio.text("x", 1),
            "none",
            None,
        )


def main() -> bool:
    """Run and print."""
    import torch

    if not torch.cuda.is_available():
        print("  skipped: no CUDA")
        return True
    with tempfile.TemporaryDirectory(prefix="modelkeep-bench-") as scratch:
        folder = Path(scratch, "models")
        attach = str(Path(__file__).with_name("attachroles.py"))
        subprocess.run([sys.executable, "-W", "ignore", attach, "build", str(folder)], check=True)
        with Suite(Path(scratch, "data")) as suite:
            measure(suite, folder / "pipeline")
    return True


if __name__ == "__main__":
    parts: dict[str, Callable[..., None]] = {
        "attached": attached,
        "lent": lent,
        "registered_copy": registered_copy,
        "moved": moved,
        "mapped": mapped,
        "rates": rates,
    }
    if len(sys.argv) > 1:
        parts[sys.argv[1]](*sys.argv[2:])
    else:
        main()
