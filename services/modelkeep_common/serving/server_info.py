"""modelkeep.server.v1.ServerService: what a process says about itself."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from modelkeep.server.v1 import server_service_pb2, server_service_pb2_grpc

from ..wire import to_timestamp

FULL_NAME = "modelkeep.server.v1.ServerService"


class ProcessFacts(NamedTuple):
    """What does not change while the process runs."""

    version: str
    boot_id: str

    @classmethod
    def read(cls) -> ProcessFacts:
        """Ask the system; blocks for a moment."""
        try:
            release = version("modelkeep")
        except PackageNotFoundError:
            release = "0.0.0"
        try:
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            boot_id = ""
        return cls(release, boot_id)


class ServerServicer(server_service_pb2_grpc.ServerServiceServicer):
    """Answers from what the application says at the time of the call.

    Args:
        service: Short name of the service.
        info: The application's ``server_info``: ``store_id``, ``features``, ``limits``, ``roots``
            (mappings with ``purpose``, ``path``, ``root_id``), ``devices``, ``source_tokens`` (what gives the
            fields of that message, and may block); all may be missing.
        facts: What :meth:`ProcessFacts.read` says.
        limits: Those that every service has.
    """

    def __init__(
        self,
        service: str,
        info: Callable[[], Mapping[str, Any]],
        facts: ProcessFacts,
        limits: Mapping[str, int],
    ) -> None:
        self._service = service
        self._info = info
        self._instance_id = str(uuid.uuid4())
        self._facts = facts
        self._limits = limits
        self._start_time = time.time()

    async def GetServerInfo(
        self, request: server_service_pb2.GetServerInfoRequest, context: Any
    ) -> server_service_pb2.GetServerInfoResponse:
        """See the .proto."""
        info = self._info()
        kept: Callable[[], Mapping[str, Any]] | None = info.get("source_tokens")
        tokens = server_service_pb2.SourceTokens(**await asyncio.to_thread(kept)) if kept else None
        return server_service_pb2.GetServerInfoResponse(
            service=self._service,
            version=self._facts.version,
            instance_id=self._instance_id,
            boot_id=self._facts.boot_id,
            pid=os.getpid(),
            start_time=to_timestamp(self._start_time),
            store_id=info.get("store_id", ""),
            features=info.get("features", ()),
            limits={**self._limits, **info.get("limits", {})},
            devices=info.get("devices", ()),
            source_tokens=tokens,
            roots=[
                server_service_pb2.Root(
                    purpose=root.get("purpose", ""),
                    path=str(root.get("path", "")),
                    root_id=root.get("root_id", ""),
                )
                for root in info.get("roots", ())
            ],
        )
