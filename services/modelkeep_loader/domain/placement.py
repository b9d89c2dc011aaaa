"""Placement: which accelerator each component of a request goes to, and how much of it.

* A request's components go to one device if they fit there, and are spread otherwise.
* A device that has them already goes before one that would have to get them, and of others the one with
  the most room.
* Objects stay in RAM, and so does what the request's own bound leaves no room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.worker.manifest import Kind
from modelkeep_loader.domain.components import AUTO, ComponentRef, Placed, Plan, Stage
from modelkeep_loader.domain.demand import Demand, Terms
from modelkeep_loader.domain.devices import Device, Devices
from modelkeep_loader.domain.tier import Tier


class Placement:
    """Places the components of requests.

    Args:
        devices: The host's accelerators.
        ram: Where the components are that are copied there.
    """

    def __init__(self, devices: Devices, ram: Tier) -> None:
        self._devices = devices
        self._ram = ram

    def check(self, refs: Sequence[ComponentRef], *, in_ram: bool = False) -> None:
        """Refuse devices that there are not, before anything is read.

        Args:
            refs: What is wanted.
            in_ram: Whether it can only be in the host's own memory.

        Raises:
            FieldInvalidException, DeviceUnavailableException: See :meth:`Devices.candidates`.
        """
        for ref in refs:
            if self._devices.candidates(ref.device) and in_ram and ref.device != AUTO:
                said = FieldViolation("components.device", "must be cpu or auto with DELIVERY_PATH")
                raise FieldInvalidException(
                    "What is delivered by path is in the host's own memory.", violations=[said]
                )

    def refuse_ram(self, plans: Sequence[Plan]) -> None:
        """Refuse plans that were to be on accelerators, and are not.

        Raises:
            FieldInvalidException: There is none for one of them.
        """
        if any(plan.placed is None and plan.kind is not Kind.OBJECT for plan in plans):
            there = ", ".join(device.name for device in self._devices.usable) or "none"
            raise FieldInvalidException(
                f"There is no accelerator for it: this host has {there} that can be used.",
                violations=[FieldViolation("tier", "must not be TIER_VRAM without an accelerator")],
            )

    def place(self, demand: Demand) -> None:
        """Make the plans of a demand, from what is wanted, as it can best be met now.

        Raises:
            FieldInvalidException, DeviceUnavailableException: See :meth:`Devices.candidates`.
        """
        if demand.wanted:
            demand.plans = self.placed(demand.wanted, demand.terms)

    def placed(self, plans: Sequence[Plan], terms: Terms) -> list[Plan]:
        """Plans for where the components go, made from those for RAM, in the same order."""
        choices = [[] if p.kind is Kind.OBJECT else self._devices.candidates(p.ref.device) for p in plans]
        common = [d for d in self._devices.usable if all(d in some for some in choices if some)]
        there = [plan for plan, some in zip(plans, choices, strict=True) if some]
        if not there:
            return list(plans)
        one, has_room = self._one_for_all(there, common, terms)
        spread = self._on(self._spread(plans, choices), plans, choices, terms)
        if one is None or (not has_room and self._fits(spread, terms)):
            return spread
        return self._on({_key(plan): one for plan in there}, plans, choices, terms)

    def _fits(self, plans: Sequence[Plan], terms: Terms) -> bool:
        """Whether devices have room for these now."""
        copies = {plan.id: plan for plan in plans if plan.placed is not None}
        extra = terms.activation_bytes
        for device in self._devices.usable:
            here = [copy for copy in copies.values() if copy.device == device.name]
            if here:
                need = sum(copy.size_bytes for copy in here if not _is_there(copy, device)) + extra
                if device.tier.room_for(need, [copy.id for copy in here]).bytes_short:
                    return False
                extra = 0  # it is reserved on the first of them
        return True

    def _one_for_all(
        self, plans: Sequence[Plan], common: Sequence[Device], terms: Terms
    ) -> tuple[Device | None, bool]:
        """The device that all of them go to together, and whether it has room now; None if there is none that
        could ever take them.
        """
        ranked: list[tuple[bool, int, int, Device]] = []
        for device in common:
            copies = {_key(plan): self._whole(plan, device) for plan in plans}.values()
            missing = [copy for copy in copies if not _is_there(copy, device)]
            size = sum(copy.size_bytes for copy in copies) + terms.activation_bytes
            need = sum(copy.size_bytes for copy in missing)
            if terms.max_vram_bytes:
                size, need = min(size, terms.max_vram_bytes), min(need, terms.max_vram_bytes)
            if size > device.tier.most_bytes:
                continue
            room = device.tier.room_for(need + terms.activation_bytes, [copy.id for copy in copies])
            ranked.append((room.bytes_short > 0, need, -_room(device), device))
        if not ranked:
            return None, False
        is_short, _, _, device = min(ranked, key=lambda one: one[:3])
        return device, not is_short

    def _spread(self, plans: Sequence[Plan], choices: Sequence[Sequence[Device]]) -> dict[object, Device]:
        left = {device.name: _room(device) for device in self._devices.usable}
        found: dict[object, Device] = {}
        for plan, some in zip(plans, choices, strict=True):
            if some and _key(plan) not in found:
                copies = {device.name: self._whole(plan, device) for device in some}
                warm = [device for device in some if _is_there(copies[device.name], device)]
                best = warm[0] if warm else max(some, key=lambda device: left[device.name])
                found[_key(plan)] = best
                left[best.name] -= 0 if warm else copies[best.name].size_bytes
        return found

    def _on(
        self,
        chosen: dict[object, Device],
        plans: Sequence[Plan],
        choices: Sequence[Sequence[Device]],
        terms: Terms,
    ) -> list[Plan]:
        """The plans for these devices, within what the request bounds them to together."""
        left = terms.max_vram_bytes
        made: list[Plan] = []
        for plan, some in zip(plans, choices, strict=True):
            if not some:
                made.append(plan)
                continue
            # It may be wanted on two devices by name.
            device = chosen[_key(plan)] if chosen[_key(plan)] in some else some[0]
            whole = self._whole(plan, device)
            if not terms.max_vram_bytes or whole.size_bytes <= left:
                made.append(whole)
                left -= whole.size_bytes
                continue
            granularity = device.facts.granularity
            part = left // granularity * granularity
            left = 0
            made.append(_copy(plan, device, part, part) if part else plan)
        return made

    def _whole(self, plan: Plan, device: Device) -> Plan:
        found = self._ram.get(plan.id)
        is_known = found is not None and found.stage is Stage.RESIDENT
        size = found.size_bytes if found is not None and is_known else plan.size_bytes
        return _copy(plan, device, device.facts.rounded(size))


def _key(plan: Plan) -> object:
    """What tells components apart, also where their identity is not known yet."""
    return plan.id or plan.ref


def _copy(plan: Plan, device: Device, size_bytes: int, part_bytes: int = 0) -> Plan:
    name = f"{plan.id}@{device.name}{f'#{part_bytes}' if part_bytes else ''}" if plan.id else ""
    return replace(
        plan,
        id=name,
        device=device.name,
        size_bytes=size_bytes,
        build_bytes=0,
        placed=Placed(plan.id, plan.size_bytes, plan.build_bytes, part_bytes),
    )


def _is_there(copy: Plan, device: Device) -> bool:
    found = device.tier.get(copy.id)
    return found is not None and found.stage is not Stage.FAILED


def _room(device: Device) -> int:
    """Bytes that nothing takes there, or that only takes what may go."""
    idle = sum(resident.size_bytes for resident in device.tier.residents() if resident.may_go)
    usage = device.tier.usage()
    return usage.budget - usage.taken + idle
