"""The owner: makes memory on accelerators and knows how much there is, without working on any itself.

It has no context on a device, so that nothing which goes wrong there reaches it, and it keeps nothing: an
allocation belongs to whoever has its descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from modelkeep.devices.driver import DeviceGoneError, Driver


class Owner:
    """Answers the loader's requests; see :data:`modelkeep_devices.wire.Answer`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(
        self, request: dict[str, Any], descriptors: list[int], progress: Callable[[int], None]
    ) -> tuple[dict[str, Any], list[int]]:
        """Do what is asked for: ``devices``, ``memory`` of a device, ``create`` on one."""
        match request["do"]:
            case "devices":
                return {"devices": [asdict(facts) for facts in self._driver.devices()]}, []
            case "memory":
                return asdict(self._driver.memory(request["device"])), []
            case "create":
                return {}, [self._create(request["device"], request["size_bytes"])]
        raise ValueError(f"the owner does not do {request['do']!r}")

    def _create(self, device: str, size_bytes: int) -> int:
        facts = next((facts for facts in self._driver.devices() if facts.name == device), None)
        if facts is None:
            raise DeviceGoneError(f"There is no device {device!r}.")
        if facts.refusal:
            raise DeviceGoneError(f"Nothing can be lent on {device}: {facts.refusal}")
        return self._driver.create(device, facts.rounded(size_bytes))
