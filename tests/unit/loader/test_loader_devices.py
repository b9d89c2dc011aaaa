"""Which device a component goes to, by what callers say and by what a host has."""

from __future__ import annotations

import pytest

from modelkeep.devices.driver import DeviceFacts
from modelkeep.exceptions import DeviceUnavailableException, FieldInvalidException, VramExhaustedException
from modelkeep_loader.domain.demand import Demand, Terms, Usage
from modelkeep_loader.domain.devices import Device, Devices, DeviceTier
from modelkeep_loader.domain.shortage import Shortage, vram_exhausted
from support.lendingcore import Forge


def device(name: str, refusal: str = "") -> Device:
    facts = DeviceFacts(name, "simulated", f"uuid of {name}", 64 << 20, 2 << 20, refusal)
    return Device(facts, Forge(), DeviceTier(facts, budget_bytes=64 << 20))


def names(devices: Devices, asked: str) -> list[str]:
    return [found.name for found in devices.candidates(asked)]


def test_a_host_without_accelerators_lends_in_its_own_memory() -> None:
    host = Devices()
    assert names(host, "auto") == names(host, "cpu") == []
    with pytest.raises(FieldInvalidException, match="no device cuda:1: it has cpu") as refused:
        host.candidates("cuda:1")
    assert refused.value.violations[0].field == "components.device"


def test_a_kind_means_every_device_of_it_that_can_be_used() -> None:
    host = Devices([device("sim:0"), device("sim:1", "it is broken"), device("sim:2")])
    assert names(host, "auto") == names(host, "sim") == ["sim:0", "sim:2"]
    assert names(host, "sim:2") == ["sim:2"]
    with pytest.raises(FieldInvalidException, match="it has cpu, sim:0, sim:1, sim:2"):
        host.candidates("cuda")


def test_a_device_that_cannot_be_used_says_why() -> None:
    host = Devices([device("sim:0", "It is in MIG mode.")])
    assert names(host, "auto") == [], "and nothing is refused to those who leave the choice to the loader"
    with pytest.raises(
        DeviceUnavailableException, match="sim:0 cannot be used: It is in MIG mode"
    ) as refused:
        host.candidates("sim:0")
    assert refused.value.metadata == {"device": "sim:0", "why": "It is in MIG mode."}


def test_the_setting_says_what_auto_means() -> None:
    host = Devices([device("sim:0"), device("sim:1")], default="sim:1")
    assert names(host, "auto") == ["sim:1"]
    with pytest.raises(FieldInvalidException, match="no device cuda, which the loader's setting `device`"):
        Devices(default="cuda").candidates("auto")


def test_who_holds_an_accelerators_memory_is_told() -> None:
    demand = Demand([], "lease-1", bytes_short=1000)
    usage = Usage(5000, 5000, 5000, 0, 0, 0, 1)
    error = vram_exhausted("sim:0", 9000, Shortage(demand, usage, ["lease-2"], 1))
    assert "1,000 bytes of 5,000 are missing; the rest is held by the lease lease-2" in error.message
    assert error.metadata["device"] == "sim:0"
    assert error.metadata["holders"] == "lease-2"


def test_what_would_never_fit_is_told_from_what_others_leave_no_room_for() -> None:
    def refused(wanted: int) -> VramExhaustedException:
        demand = Demand([], "lease-1", terms=Terms(activation_bytes=wanted))
        return vram_exhausted("sim:0", 9000, Shortage(demand, Usage(5000, 4000, 0, 0, 0, 0, 1), [], 0))

    beside = refused(8000)
    assert "8,000 bytes are asked for; other processes leave 5,000 of the 9,000" in beside.message
    assert "vram_budget_bytes" not in beside.remedy, "raising it would not help"
    never = refused(9500)
    assert "9,500 bytes are asked for; all that may be used there is 9,000" in never.message
    assert "vram_budget_bytes" in never.remedy
