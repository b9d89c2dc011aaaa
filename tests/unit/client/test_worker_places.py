"""What "auto" means to a worker that can use all, some or none of the loader's accelerators."""

from __future__ import annotations

import logging

import pytest
import torch

from modelkeep.exceptions import DeviceUnavailableException
from modelkeep.loader.v1 import capacity_pb2
from modelkeep.worker._places import Places

#: Of no GPU of any host.
FOREIGN = "GPU-00000000-0000-0000-0000-000000000000"


def places(**uuids: str) -> tuple[Places, list[None]]:
    """A loader's devices ("sim0" for sim:0), and a list that grows with each question to the loader."""
    asked: list[None] = []

    def ask() -> capacity_pb2.GetCapacityResponse:
        asked.append(None)
        found = [
            capacity_pb2.Accelerator(
                name=f"{name[:-1]}:{name[-1]}", uuid=uuid, refusal="" if uuid else "It is broken."
            )
            for name, uuid in uuids.items()
        ]
        return capacity_pb2.GetCapacityResponse(accelerators=found)

    return Places(ask), asked


def test_auto_is_left_to_the_loader_where_this_process_can_use_all_that_it_lends_on() -> None:
    some, asked = places(sim0="SIM-0", sim1="SIM-1", cuda0="")
    assert [some.meant("auto"), some.meant("auto"), some.meant("cuda:7")] == ["auto", "auto", "cuda:7"]
    assert len(asked) == 1
    none, _ = places()
    assert none.meant("auto") == "auto"


def test_auto_is_the_cpu_where_this_process_can_use_none_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found, _ = places(cuda0=FOREIGN)
    with caplog.at_level(logging.WARNING):
        assert found.meant("auto") == "cpu"
    assert '"auto" is cpu in this process. The weights are on cuda:0, which this worker' in caplog.text
    with pytest.raises(DeviceUnavailableException):
        found.torch_device(found.meant("cuda:0"))
    assert found.torch_device("cpu") == torch.device("cpu")


def test_auto_is_an_accelerator_that_this_process_can_use_where_it_cannot_use_all() -> None:
    found, asked = places(cuda0=FOREIGN, sim0="SIM-0")
    assert found.meant("auto") == "sim:0"
    assert found.torch_device("sim:0") == torch.device("cpu"), "what torch calls the simulated one"
    assert len(asked) == 1
