"""What of a grant lies on accelerators, mapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelkeep.exceptions import UnknownLeaseException
from modelkeep.loader.v1 import hold_pb2, resident_pb2
from modelkeep.worker.attachment import attach
from modelkeep.worker.devicepart import DevicePart


class Parts:
    """The components of a grant as they are mapped here.

    Args:
        request: With which the lease was asked for.
        grant: What was granted.
        descriptors: What its ticket gave. They may be closed afterwards.

    Attributes:
        modules: What was attached, in the order asked for.

    Raises:
        ModelkeepError: A component cannot be attached.
    """

    def __init__(
        self, request: hold_pb2.HoldModelRequest, grant: hold_pb2.Grant, descriptors: Sequence[int]
    ) -> None:
        self._manifests = grant.manifests
        self._on_devices = [_device_part(manifest, descriptors) for manifest in grant.manifests]
        if request.max_vram_bytes:
            self._put_beside(request)
        self.modules: list[Any] = [
            attach(descriptors[manifest.descriptor_index], part)
            for manifest, part in zip(grant.manifests, self._on_devices, strict=True)
        ]

    def _put_beside(self, request: hold_pb2.HoldModelRequest) -> None:
        """Modules of which nothing fits within the bound compute where the others do, on the accelerator."""
        others = next((manifest for manifest in self._manifests if manifest.device_uuid), None)
        if others is None:
            return
        for index, (manifest, asked) in enumerate(zip(self._manifests, request.components, strict=True)):
            is_module = manifest.kind == resident_pb2.MANIFEST_KIND_MODULE
            if is_module and not manifest.device_uuid and asked.device != "cpu":
                self._on_devices[index] = DevicePart(others.device, others.device_uuid, None, 0)

    def let_go(self) -> None:
        """Unmap what is on accelerators, and keep the addresses."""
        for part in self._on_devices:
            if part is not None:
                part.let_go()

    def take_back(self, grant: hold_pb2.Grant, descriptors: Sequence[int]) -> None:
        """Map it again, from other allocations of the same contents.

        Args:
            grant: What was granted now.
            descriptors: What its ticket gave. They may be closed afterwards.

        Raises:
            UnknownLeaseException: The contents are not those that were mapped.
            DeviceUnavailableException: An accelerator cannot be used any more.
        """
        for part, before, now in zip(self._on_devices, self._manifests, grant.manifests, strict=True):
            if part is None:
                continue
            if (now.vram_bytes, now.device_uuid) != (before.vram_bytes, before.device_uuid) or (
                now.tensors != before.tensors
            ):
                raise UnknownLeaseException(
                    f"The loader has {before.component.key} elsewhere, or otherwise, than this lease had it.",
                    metadata={"lease_id": grant.lease.id},
                    remedy="Release what is kept, and get the model anew.",
                )
            part.take_back(_allocation(now, descriptors))


def _device_part(manifest: resident_pb2.ComponentManifest, descriptors: Sequence[int]) -> DevicePart | None:
    """What of a component is on an accelerator; None for one in host memory."""
    if not manifest.device_uuid:
        return None
    allocation = _allocation(manifest, descriptors)
    return DevicePart(manifest.device, manifest.device_uuid, allocation, manifest.vram_bytes)


def _allocation(manifest: resident_pb2.ComponentManifest, descriptors: Sequence[int]) -> int | None:
    there = manifest.HasField("device_descriptor_index")
    return descriptors[manifest.device_descriptor_index] if there else None
