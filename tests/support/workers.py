"""Real worker processes for tests: forked from one that has done the slow imports.

``python -m support.workers SOCKET`` imports torch and diffusers once and then forks a fresh worker for
each connection to SOCKET. A worker answers one JSON object a line: ``{"do": name, ...arguments}`` with
``{"ok": value}`` or ``{"error": class name, "reason": …, "message": …}``. Nothing that matters is made
before the fork: no channel, no thread, no tensor.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import devicework, workergaps
from support.digests import decoded, digest
from support.sandboxed import attempts_on, become, enter_sandbox, hand_in, open_files
from support.workersteps import go_to, hand_on, let_go, told, works

if TYPE_CHECKING:
    from modelkeep.dtypes import Precision

__all__ = [
    "ROOT",
    "Worker",
    "WorkerError",
    "Workers",
    "attempts_on",
    "become",
    "enter_sandbox",
    "go_to",
    "hand_in",
    "hand_on",
    "let_go",
    "open_files",
    "shared_workers",
    "told",
    "works",
]

ROOT = Path(__file__).resolve().parents[2]


class Workers:
    """The process that forks workers; a context manager for the parent's side.

    Args:
        folder: For its socket.
        alone: It forks none, and is the one worker itself: torch lets no fork use a GPU once its parent has
            looked for one, as imports do.
    """

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self._path = folder / "workers.sock"
        self._arguments = [str(self._path), *(["alone"] if alone else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Workers:
        path = os.pathsep.join(str(ROOT / part) for part in ("services", "clients/python", "tests"))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "support.workers", *self._arguments],
            env={**os.environ, "PYTHONPATH": path},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def new(self) -> Worker:
        """A fresh worker; the first one waits for the imports."""
        for _ in range(1800):  # of a machine with much else to do
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 24)
                return Worker(reader, writer, json.loads(await reader.readline())["pid"])
            except (FileNotFoundError, ConnectionRefusedError):
                assert self._process is not None
                assert self._process.poll() is None, "the workers' parent has died"
                await asyncio.sleep(0.1)
        raise TimeoutError("the workers' parent does not come up")


@functools.cache
def shared_workers() -> Workers:
    """The parent of all tests' workers, started at the first call; it ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    parent = Workers(folder).__enter__()
    atexit.register(shutil.rmtree, folder, True)
    atexit.register(parent.__exit__)
    return parent


class WorkerError(Exception):
    """What a worker raised: ``args`` are class name, reason, message."""


class Worker:
    """One worker process, from the test's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        self._reader = reader
        self._writer = writer
        self.pid = pid

    async def do(self, what: str, **arguments: Any) -> Any:
        """Run one of the functions below, or of another module of steps, in the worker."""
        self._writer.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        answer = json.loads(
            await self._reader.readline() or b'{"error": "died", "reason": "", "message": ""}'
        )
        if "error" in answer:
            raise WorkerError(answer["error"], answer["reason"], answer["message"])
        return answer["ok"]

    def kill(self) -> None:
        """SIGKILL; :meth:`close` is still to be called."""
        os.kill(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Let it end by itself."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


# In the worker.

_state: dict[str, Any] = {}


def connect(address: str, **options: Any) -> None:
    """Make the worker's ModelLoader."""
    from modelkeep.worker import ModelLoader

    _state["events"] = []
    _state["loader"] = ModelLoader(
        address,
        on_event=lambda name, payload: _state["events"].append([name, payload]),
        on_revoke=lambda asked: _state["events"].append(["asked back", {"why": asked.why}]),
        **options,
    )


def hold(
    key: str,
    submodel: str | None,
    precision: str,
    context: dict[str, Any] | None = None,
    weights: str = "auto",
) -> Any:
    """get_model, and enter it. Returns facts, times in seconds, and bytes of private memory gained."""
    import gc

    started = time.perf_counter()
    info = _state["loader"].get_model(key, submodel, context, precision=precision, weights=weights)
    loaded = time.perf_counter() - started
    gc.collect()
    before = _anonymous()
    started = time.perf_counter()
    module = info.__enter__()
    entered = time.perf_counter() - started
    _state.update(info=info, module=module)
    return {
        "name": info.name,
        "base": info.base_model,
        "type": info.type,
        "location": str(info.location),
        "precision": str(info.precision),
        "hash": info.hash,
        "device": str(info.device),
        "lease": info.context.lease_id,
        "load_s": loaded,
        "enter_s": entered,
        "private_bytes": _anonymous() - before,
        "weight_bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
        "training": module.training,
        "gradients": any(p.requires_grad for p in module.parameters()),
    }


def release() -> None:
    """Leave it; the module stays with the worker."""
    _state["info"].__exit__(None, None, None)


def lost() -> str:
    """Why the lease went, as the worker knows it."""
    return str(_state["info"].context.lost)


def asked_back() -> str | None:
    """Why the lease is asked back, as the worker knows it; None while it is not."""
    asked = _state["info"].context.revoke_requested
    return None if asked is None else str(asked.why)


def events() -> list[Any]:
    """The events so far."""
    return list(_state["events"])


def verify() -> bool:
    """Whether every parameter lies in one memfd that the loader made."""
    from modelkeep.worker import mapped_memory

    _device, inode = mapped_memory(_state["module"])
    return inode in {int(line.split()[4]) for line in _maps() if "memfd:modelkeep" in line}


def decode() -> str:
    """SHA-256 of what the held VAE makes of fixed latents."""
    return decoded(_state["module"])


def reference(folder: str, class_name: str, precision: str, device: str = "cpu") -> dict[str, Any]:
    """The same from from_pretrained in this process: digest of outputs or of all tensors, and the time."""
    import diffusers
    import torch
    import transformers

    cls: Any = getattr(diffusers, class_name, None) or getattr(transformers, class_name)
    dtype = {"torch_dtype" if hasattr(diffusers, class_name) else "dtype": getattr(torch, precision)}
    started = time.perf_counter()
    module = cls.from_pretrained(folder, **dtype).eval().to(device)
    seconds = time.perf_counter() - started
    image = decoded(module) if class_name == "AutoencoderKL" else ""
    return {"decoded": image, "tensors": digest(module), "seconds": seconds}


def output() -> str:
    """SHA-256 of what the held module makes of fixed inputs."""
    from support.originalforwards import output_of

    return output_of(_state["module"])


def original(file: str, folder: str, submodel: str, class_name: str, precision: str) -> dict[str, str]:
    """What diffusers' own reading of a whole checkpoint yields: digests of all tensors and of an output."""
    from support.originalforwards import output_of, read_by_diffusers

    module = read_by_diffusers(file, folder, submodel, class_name, precision)
    return {"tensors": digest(module), "output": output_of(module)}


def move(device: str) -> list[str]:
    """Move the held module, as a worker with a GPU does; the devices that its tensors are on then."""
    module = _state["module"].to(device)
    return sorted({tensor.device.type for tensor in (*module.parameters(), *module.buffers())})


def copy_without_end(device: str, started: str) -> None:
    """Copy the held weights to a device until killed; makes a file once the first round is over."""
    import torch

    weights = list(_state["module"].parameters())
    while True:
        copies = [weight.detach().to(device, non_blocking=True) for weight in weights]
        torch.cuda.synchronize(device)
        del copies
        Path(started).touch()


def free_device_bytes(device: str) -> int:
    """Bytes of a GPU's memory that nobody has."""
    import torch

    return torch.cuda.mem_get_info(device)[0]


def tensors() -> str:
    """SHA-256 of every tensor of the held module."""
    return digest(_state["module"])


def shared() -> dict[str, int]:
    """Bytes of the lent mapping, from /proc/self/smaps, once all of it was read: rss, pss, private."""
    import torch

    with torch.no_grad():
        for parameter in _state["module"].parameters():
            parameter.view(-1).view(torch.uint8).sum()
    found = dict.fromkeys(("Rss", "Pss", "Private_Dirty", "Anonymous"), 0)
    inside = False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            inside = "memfd:modelkeep" in line
        elif inside and name in found:
            found[name] += int(rest.split()[0]) * 1024
    return found


def scribble() -> bool:
    """Write into a parameter in place. Whether the worker then sees its own write."""
    import torch

    with torch.no_grad():
        parameter = next(_state["module"].parameters())
        parameter.view(-1)[0] = 12345.0
        return float(parameter.view(-1)[0]) != 0.0


def break_in(key: str, submodel: str, precision: Precision) -> list[str]:
    """Try to change lent memory through its descriptor in every way; what the kernel answers."""
    import fcntl
    import mmap

    from modelkeep.components import component
    from modelkeep.loader.v1 import hold_pb2
    from modelkeep.worker._fetch import fetch_descriptors

    loader = _state["loader"]
    grant = loader._stub.AcquireLease(
        hold_pb2.AcquireLeaseRequest(components=[component(key, submodel, precision)])
    ).grant
    connection, (fd,) = fetch_descriptors(grant.socket_path, grant.ticket, 1)
    answers: list[str] = []

    def attempt(act: Callable[[], Any]) -> None:
        try:
            act()
            answers.append("allowed")
        except OSError as error:
            answers.append(type(error).__name__)

    attempt(lambda: os.pwrite(fd, b"x", 5000))
    os.fchmod(fd, 0o600)  # the memory is this user's as much as the loader's
    writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    attempt(lambda: os.pwrite(writable, b"x", 5000))
    attempt(lambda: os.ftruncate(writable, 10))
    attempt(lambda: mmap.mmap(writable, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE))
    attempt(lambda: fcntl.fcntl(writable, fcntl.F_ADD_SEALS, 0))
    for descriptor in (fd, writable):
        os.close(descriptor)
    connection.close()
    loader._stub.ReleaseLease(
        hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
    )
    return answers


def fork() -> int:
    """Fork a child that does nothing but live; its process id. It dies with the tests' workers."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def detach() -> str:
    """Cast the module, as a careless worker would; what verify_attachment says of it."""
    import torch

    from modelkeep.exceptions import InvalidModelException
    from modelkeep.worker import verify_attachment

    _state["module"].to(torch.float64)
    try:
        verify_attachment(_state["module"])
    except InvalidModelException as error:
        return error.message
    return ""


def grants(key: str, submodel: str, precision: Precision, count: int) -> list[float]:
    """Seconds that it takes to be granted a lease on a resident, each ended before the next."""
    from modelkeep.components import component
    from modelkeep.loader.v1 import hold_pb2

    stub = _state["loader"]._stub
    times: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        grant = stub.AcquireLease(
            hold_pb2.AcquireLeaseRequest(components=[component(key, submodel, precision)])
        ).grant
        times.append(time.perf_counter() - started)
        stub.ReleaseLease(
            hold_pb2.ReleaseLeaseRequest(lease_id=grant.lease.id, lease_secret=grant.lease_secret)
        )
    return times


def layerwise(folder: str, class_name: str, precision: str) -> str:
    """What diffusers' layerwise casting to float8 makes of the same inputs."""
    import diffusers
    import torch

    dtype = getattr(torch, precision)
    module = getattr(diffusers, class_name).from_pretrained(folder, torch_dtype=dtype).eval()
    module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    return _outputs(module, dtype)


def outputs() -> str:
    """SHA-256 of what the held module makes of fixed inputs."""
    return _outputs(_state["module"], _state["info"].precision)


def _outputs(module: Any, like: Any) -> str:
    import torch

    with torch.no_grad():
        if hasattr(module, "decode"):
            found = module.decode(torch.linspace(-2, 2, 16).reshape(1, 4, 2, 2).to(like))[0]
        elif hasattr(module, "time_embedding"):
            latents = torch.linspace(-2, 2, 4 * 8 * 8).reshape(1, 4, 8, 8).to(like)
            width = module.config.cross_attention_dim
            found = module(latents, 7, torch.linspace(-1, 1, 3 * width).reshape(1, 3, width).to(like))[0]
        else:
            found = module(torch.arange(1, 9).reshape(1, 8))[0]
    return hashlib.sha256(found.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text("utf-8").splitlines()


def _anonymous() -> int:
    text = Path("/proc/self/smaps_rollup").read_text("utf-8")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Anonymous:"))


def _serve(connection: socket.socket) -> None:
    import torch

    from modelkeep.exceptions import ModelkeepError

    torch.set_num_threads(1)
    # The tests' process may be killed: do not outlive the parent.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    file = connection.makefile("rwb")
    file.write(json.dumps({"pid": os.getpid()}).encode() + b"\n")
    file.flush()
    for line in file:
        request = json.loads(line)
        try:
            what = request.pop("do")
            answer: dict[str, Any] = {"ok": _step(what)(**request)}
        except ModelkeepError as error:
            answer = {"error": type(error).__name__, "reason": error.reason, "message": error.message}
        except Exception as error:
            answer = {"error": type(error).__name__, "reason": "", "message": str(error)}
        file.write(json.dumps(answer).encode() + b"\n")
        file.flush()


def _step(name: str) -> Any:
    """One of the functions here, or of the modules that have more of them."""
    homes = (globals(), vars(workergaps), vars(devicework))
    return next(home[name] for home in homes if name in home)


def main() -> None:
    """Import what is slow, then fork."""
    import grpc  # noqa: F401
    import torch  # noqa: F401
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    import modelkeep.worker.loader  # noqa: F401

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(sys.argv[1])
    listener.listen(16)
    while True:
        connection, _ = listener.accept()
        if sys.argv[2:] == ["alone"]:
            _serve(connection)
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _serve(connection)
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    main()
