"""What devices of the loader are to this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import torch

from modelkeep.exceptions import DeviceUnavailableException
from modelkeep.loader.v1 import capacity_pb2
from modelkeep.worker.devicepart import torch_device

_log = logging.getLogger(__name__)
_AUTO: Final = "auto"


class Places:
    """The devices of a loader, as a worker may use them.

    Args:
        ask: What the loader says that there is; asked when somebody has to know.
    """

    def __init__(self, ask: Callable[[], capacity_pb2.GetCapacityResponse]) -> None:
        self._ask = ask
        self._uuids: dict[str, str] = {}
        self._auto = ""

    def torch_device(self, name: str) -> torch.device:
        """What torch in this process calls a device.

        Raises:
            DeviceUnavailableException: This process cannot use it.
            ModelkeepError: The loader does not answer.
        """
        if name != "cpu" and name not in self._uuids:
            self._look()
        return torch_device(name, self._uuids.get(name, ""))

    def meant(self, device: str) -> str:
        """What to ask the loader for where a caller says this: what is left to the loader must not come to an
        accelerator that this process cannot use.

        Raises:
            ModelkeepError: The loader does not answer.
        """
        if device != _AUTO:
            return device
        if not self._auto:
            self._auto = self._choice(self._look())
        return self._auto

    def _look(self) -> list[str]:
        """The accelerators that something can be lent on."""
        found = self._ask().accelerators
        self._uuids = {one.name: one.uuid for one in found}
        return [one.name for one in found if not one.refusal]

    def _choice(self, names: list[str]) -> str:
        usable: list[str] = []
        why = ""
        for name in names:
            try:
                torch_device(name, self._uuids[name])
            except DeviceUnavailableException as error:
                why = error.message
            else:
                usable.append(name)
        if len(usable) == len(names):
            return _AUTO
        chosen = usable[0] if usable else "cpu"
        _log.warning('the device "auto" is %s in this process. %s', chosen, why)
        return chosen
