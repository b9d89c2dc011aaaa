"""The copier of one device: fills allocations there from host memory or from files, and reads them back.

It works on the device, so whatever goes wrong there ends it, and nothing else: what it was filling is thrown
away. Host memory that will be copied more than once stays mapped and registered under a name, until it is
told to forget it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelkeep.devices import hostmemory
from modelkeep.devices.driver import DeviceFailedError, DeviceGoneError, DeviceMapping, Driver
from modelkeep_devices.files import Segment, Source, pieces

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Host memory that is mapped and registered; `identity` is the file's."""

    address: int
    size_bytes: int
    identity: tuple[int, int]


class Copier:
    """Answers the loader's requests; see :data:`modelkeep_devices.wire.Answer`."""

    def __init__(self, driver: Driver, device: str) -> None:
        self._driver = driver
        self._device = device
        self._kept: dict[str, _Kept] = {}

    def __call__(
        self, request: dict[str, Any], descriptors: list[int], progress: Callable[[int], None]
    ) -> tuple[dict[str, Any], list[int]]:
        """Do what is asked for: ``fill`` and ``gather`` (target, sources), ``read_back``, ``forget``."""
        match request["do"]:
            case "fill":
                target, source = descriptors
                self._fill(target, source, request["size_bytes"], request["keep"], progress)
            case "gather":
                target, *sources = descriptors
                return {"digests": self._gather(target, sources, request, progress)}, []
            case "read_back":
                source, target = descriptors
                self._read_back(source, target, request["size_bytes"], progress)
            case "forget":
                self._forget(request["keep"])
            case other:
                raise ValueError(f"the copier does not do {other!r}")
        return {}, []

    def _fill(
        self, target: int, source: int, size_bytes: int, keep: str, progress: Callable[[int], None]
    ) -> None:
        with (
            self._mapped(target, size_bytes, writable=True) as mapping,
            self._host(source, size_bytes, keep) as address,
        ):
            self._driver.copy_in(mapping, address, size_bytes, progress)

    def _gather(
        self,
        target: int,
        descriptors: Sequence[int],
        request: dict[str, Any],
        progress: Callable[[int], None],
    ) -> list[str]:
        """Fill an allocation from parts of files; BLAKE3 of those of which it is wanted, "" of others."""
        sources = [
            Source(descriptor, digest=wanted["digest"], cached=wanted["cached"])
            for descriptor, wanted in zip(descriptors, request["sources"], strict=True)
        ]
        segments = [Segment(*segment) for segment in request["segments"]]
        with self._mapped(target, request["size_bytes"], writable=True) as mapping:
            self._driver.copy_pieces(mapping, pieces(sources, segments), progress)
        return [source.digest.hexdigest() if source.digest is not None else "" for source in sources]

    def _read_back(self, source: int, target: int, size_bytes: int, progress: Callable[[int], None]) -> None:
        address = hostmemory.map_file(target, size_bytes, writable=True)
        try:
            with self._mapped(source, size_bytes, writable=False) as mapping:
                self._driver.copy_out(mapping, address, size_bytes, progress)
        finally:
            hostmemory.unmap(address, size_bytes)

    def _forget(self, keep: str) -> None:
        if (kept := self._kept.pop(keep, None)) is not None:
            try:
                self._driver.unregister(kept.address)
            finally:
                hostmemory.unmap(kept.address, kept.size_bytes)

    @contextlib.contextmanager
    def _mapped(self, descriptor: int, size_bytes: int, *, writable: bool) -> Iterator[DeviceMapping]:
        """An allocation for as long as it is worked on."""
        facts = next((facts for facts in self._driver.devices() if facts.name == self._device), None)
        if facts is None:
            raise DeviceGoneError(f"There is no device {self._device!r}.")
        mapping = self._driver.map(self._device, descriptor, facts.rounded(size_bytes), writable=writable)
        try:
            yield mapping
        finally:
            self._driver.close(mapping)

    @contextlib.contextmanager
    def _host(self, descriptor: int, size_bytes: int, keep: str) -> Iterator[int]:
        """The address of host memory: registered, and there for the next time, if it has a name."""
        if keep and (address := self._registered(descriptor, size_bytes, keep)):
            yield address
            return
        address = hostmemory.map_file(descriptor, size_bytes)
        try:
            yield address
        finally:
            hostmemory.unmap(address, size_bytes)

    def _registered(self, descriptor: int, size_bytes: int, keep: str) -> int:
        """The address under which it is registered; 0 if the driver does not take it."""
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino)
        kept = self._kept.get(keep)
        if kept is not None and kept.identity == identity and kept.size_bytes >= size_bytes:
            return kept.address
        self._forget(keep)
        address = hostmemory.map_file(descriptor, size_bytes)
        try:
            self._driver.register(address, size_bytes)
        except DeviceFailedError as error:
            hostmemory.unmap(address, size_bytes)
            _log.warning("host memory is copied without being registered: %s", error)
            return 0
        self._kept[keep] = _Kept(address, size_bytes, identity)
        return address
