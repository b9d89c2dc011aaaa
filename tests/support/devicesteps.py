"""Worker processes for tests of drivers: each maps allocations and says what is there.

``python -m support.devicesteps FD KIND`` answers frames over a socket, as the processes of
:mod:`modelkeep_devices` do.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from modelkeep import frames
from modelkeep.devices.driver import Driver
from modelkeep.devices.drivers import open_driver
from modelkeep_devices import wire

ROOT = Path(__file__).resolve().parents[2]


class DeviceWorker:
    """One such process, from the test's side.

    Args:
        kind: Of its driver.
        environment: Variables besides the test's own.
    """

    def __init__(self, kind: str, environment: Mapping[str, str] | None = None) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.settimeout(60)
        path = os.pathsep.join(str(ROOT / part) for part in ("services", "clients/python", "tests"))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "support.devicesteps", str(theirs.fileno()), kind],
                env={**os.environ, "PYTHONPATH": path, **(environment or {})},
                pass_fds=[theirs.fileno()],
            )

    def do(self, step: str, *descriptors: int, **arguments: Any) -> Any:
        """Have a step done; what it returns.

        Raises:
            EOFError: The process died; its exit code is the argument.
        """
        try:
            frames.send_frame(self._link, {"do": step, **arguments}, descriptors)
            frame = frames.receive_frame(self._link)
        except (BrokenPipeError, ConnectionResetError):
            frame = None
        if frame is None:
            raise EOFError(self.process.wait(30))
        if "failed" in frame[0]:
            raise wire.failure(frame[0])
        return frame[0]["done"]["value"]

    def __enter__(self) -> DeviceWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._link.close()
        self.process.kill()
        self.process.wait()


class Steps:
    """What a worker does; one mapping at a time."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._mapping: Any = None
        self._tensor: Any = None

    def __call__(
        self, request: dict[str, Any], descriptors: list[int], progress: object
    ) -> tuple[dict[str, Any], list[int]]:
        """Do a step by its name."""
        step = getattr(self, request.pop("do"))
        return {"value": step(*descriptors, **request)}, []

    def map(self, descriptor: int, uuid: str, size_bytes: int) -> int:
        """Map an allocation on the device with a uuid; its address."""
        self._mapping = self._driver.map(self._driver.named(uuid), descriptor, size_bytes)
        return int(self._mapping.address)

    def map_again(self, descriptor: int) -> int:
        """Put another one in its place; the address."""
        self._driver.map_again(self._mapping, descriptor)
        return int(self._mapping.address)

    def unmap(self) -> None:
        """Let go of the memory."""
        self._driver.unmap(self._mapping)

    def close(self) -> None:
        """Let go of all; twice, which does no harm."""
        self._driver.close(self._mapping)
        self._driver.close(self._mapping)

    def digest(self, size_bytes: int) -> str:
        """Of the first bytes there."""
        here = ctypes.create_string_buffer(size_bytes)
        self._driver.copy_out(self._mapping, ctypes.addressof(here), size_bytes, lambda done: None)
        return hashlib.sha256(here.raw).hexdigest()

    def tensor(self) -> list[Any]:
        """The mapping as torch has it: address, bytes and device, as the driver names it."""
        self._tensor = self._driver.bytes_tensor(self._mapping)
        device = self._driver.torch_device(self._mapping.device)
        return [self._tensor.data_ptr(), self._tensor.numel(), str(self._tensor.device), device]

    def tensor_digest(self, size_bytes: int) -> str:
        """Of the first bytes of that tensor, which was made once."""
        return hashlib.sha256(self._tensor[:size_bytes].cpu().numpy().tobytes()).hexdigest()

    def scribble(self) -> None:
        """Write to what is lent."""
        if self._driver.torch_device(self._mapping.device) == "cpu" or self._tensor is None:
            ctypes.memset(self._mapping.address, 7, 1024)
        else:
            self._tensor[:1024].fill_(7)
            self._tensor[:1024].cpu()


def main() -> None:
    """Answer until the test closes its end."""
    with socket.socket(fileno=int(sys.argv[1])) as link:
        wire.serve(link, Steps(open_driver(sys.argv[2])))


if __name__ == "__main__":
    main()
