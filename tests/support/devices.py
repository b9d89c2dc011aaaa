"""Accelerators for tests: simulated ones everywhere, and CUDA's where there are some."""

from __future__ import annotations

import json
import os
from pathlib import Path

from modelkeep import sealed
from modelkeep.devices.simulated import Fault

MIB = 1 << 20


class Faults:
    """The file that says what goes wrong on simulated accelerators.

    Args:
        path: Where it is to be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.clear()

    def spec(self, devices: str) -> str:
        """Simulated accelerators to which it applies, such as "2x64MiB"."""
        return f"sim:{devices},faults={self._path}"

    def set(self, device: str, fault: Fault) -> None:
        """From now on this goes wrong on a device."""
        told = json.loads(self._path.read_text("utf-8"))
        names = Fault.__dataclass_fields__
        self._write({**told, device: {name: getattr(fault, name) for name in names}})

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._write({})

    def _write(self, told: dict[str, object]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(told), "utf-8")
        new.replace(self._path)  # whoever reads it reads all of it


def weights(size_bytes: int, name: str = "weights") -> int:
    """A descriptor of sealed memory with random bytes, as the RAM tier has it."""
    made = sealed.create(name, size_bytes)
    try:
        block = os.urandom(MIB)
        for number, start in enumerate(range(0, size_bytes, MIB)):
            turned = block[number:] + block[:number]  # no two parts are equal
            sealed.write(made, start, turned[: size_bytes - start])
        sealed.seal(made)
        return sealed.open_readonly(made)
    finally:
        os.close(made)
