"""The devices of a host, and which of them a component that is asked for goes to.

A caller names a device ("cuda:1"), a kind of accelerator ("cuda"), the host's own memory ("cpu"), or leaves
it to the loader ("auto"). Names are those of :class:`modelkeep.devices.driver.DeviceFacts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from modelkeep.devices.driver import DeviceFacts
from modelkeep.exceptions import DeviceUnavailableException, FieldInvalidException, FieldViolation
from modelkeep_loader.domain.components import CPU

#: What leaves the choice to the loader.
AUTO: Final = "auto"


def unavailable(device: str, why: str) -> DeviceUnavailableException:
    """A device that is there, and cannot be used."""
    return DeviceUnavailableException(
        f"The device {device} cannot be used: {why.rstrip('.')}.", metadata={"device": device, "why": why}
    )


class Device:
    """An accelerator, for as long as the loader runs.

    Args:
        facts: What its driver says of it.
    """

    def __init__(self, facts: DeviceFacts) -> None:
        self.facts = facts
        #: Why nothing can be lent on it, in words; "" if it can.
        self.refusal = facts.refusal

    @property
    def name(self) -> str:
        """What callers know it by."""
        return self.facts.name

    @property
    def kind(self) -> str:
        """What its name begins with."""
        return self.name.partition(":")[0]


class Devices:
    """The accelerators of a host.

    Args:
        devices: Those that there are, in the order of their numbers.
        default: What "auto" means: "auto" itself (an accelerator where there is one), or any other device.
    """

    def __init__(self, devices: Sequence[Device] = (), default: str = AUTO) -> None:
        self.all = devices
        self._default = default

    @property
    def usable(self) -> list[Device]:
        """Those that something can be lent on."""
        return [device for device in self.all if not device.refusal]

    def candidates(self, asked: str) -> list[Device]:
        """Accelerators that may be meant by what a caller asked for; none: the host's own memory.

        Raises:
            FieldInvalidException: There is no such device.
            DeviceUnavailableException: There is, and it cannot be used.
        """
        wanted = self._default if asked == AUTO else asked
        if wanted == AUTO:
            return self.usable
        if wanted == CPU:
            return []
        meant = [device for device in self.all if wanted in (device.name, device.kind)]
        if not meant:
            raise self._unknown(asked, wanted)
        if found := [device for device in meant if not device.refusal]:
            return found
        raise unavailable(meant[0].name, meant[0].refusal)

    def _unknown(self, asked: str, wanted: str) -> FieldInvalidException:
        said = f"{wanted}, which the loader's setting `device` names" if asked != wanted else wanted
        there = ", ".join([CPU, *(device.name for device in self.all)])
        return FieldInvalidException(
            f"This host has no device {said}: it has {there}.",
            violations=[FieldViolation("components.device", f"must be {AUTO}, or one of {there}")],
        )
