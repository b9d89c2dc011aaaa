"""InstallService on the wire: a few lines a method."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import grpc.aio

from modelkeep.exceptions import FieldInvalidException, FieldViolation
from modelkeep.install.v1 import check_pb2, install_pb2, install_service_pb2_grpc, relink_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.auth import ADMIN
from modelkeep_common.calls import current_call
from modelkeep_common.calls.authentication import need_role
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.labels import have
from modelkeep_common.paging import (
    clamp_page_size,
    decode_page_token,
    encode_page_token,
    fitting,
)
from modelkeep_common.sqlite import Connection
from modelkeep_common.urls import shown
from modelkeep_common.watch import WatchHub, stream_frames, until_ended
from modelkeep_common.watch.frames import chunked
from modelkeep_common.wire import to_seconds

from . import convert
from .domain.requests import Caller, JobFilter
from .installer import Installer
from .presence import Presence
from .store import InstallStore

#: How much of what was deleted an answer names.
_MAX_PATHS, _MAX_PATHS_BYTES = 1000, 1 << 20
_MAX_SHARED = 1000
_MAX_MISSING = 1000


class InstallServicer(install_service_pb2_grpc.InstallServiceServicer):
    """The methods are those of the .proto, which says what they do.

    Args:
        installer: The core.
        store: For the snapshots of a watch, which are read inside the hub's transaction.
        hub: For watches.
        presence: Who looks whether models are where their records say.
    """

    def __init__(
        self,
        installer: Installer,
        store: InstallStore,
        hub: WatchHub[install_pb2.Install],
        presence: Presence,
    ) -> None:
        self._installer = installer
        self._presence = presence
        self._store = store
        self._hub = hub

    async def ImportModel(self, request: pb.ImportModelRequest, context: object) -> pb.ImportModelResponse:
        call = current_call()
        caller = Caller(request.request_id, _mark(request), call.principal, call.method)
        wanted = convert.import_request_of(request)
        if request.validate_only:
            rehearsed = await self._installer.rehearse(wanted, caller)
            return pb.ImportModelResponse(install=convert.install_message(*rehearsed))
        job, existing = await self._installer.import_model(wanted, caller)
        return pb.ImportModelResponse(install=await self._message(job.id), existing=existing)

    async def GetInstall(self, request: pb.GetInstallRequest, context: object) -> pb.GetInstallResponse:
        return pb.GetInstallResponse(install=await self._message(request.id))

    async def ListInstalls(self, request: pb.ListInstallsRequest, context: object) -> pb.ListInstallsResponse:
        mark = fingerprint(request, without=("page_token", "page_size"))
        position = decode_page_token(request.page_token, mark, (int,))
        size = clamp_page_size(request.page_size)
        jobs, token = await self._installer.page(
            JobFilter(request.source_contains, convert.states_of(request.states), dict(request.labels)),
            before=int(position[0]) if position else None,
            limit=size + 1,
        )
        page = fitting(itertools.starmap(convert.install_message, jobs[:size]))
        more = encode_page_token([page[-1].id], mark) if len(jobs) > len(page) else ""
        # It covers what changes while the other pages are read.
        first = token if not request.page_token else ""
        return pb.ListInstallsResponse(installs=page, next_page_token=more, resume_token=first)

    async def CancelInstall(
        self, request: pb.CancelInstallRequest, context: object
    ) -> pb.CancelInstallResponse:
        job = await self._installer.cancel(request.id)
        return pb.CancelInstallResponse(install=await self._message(job.id))

    async def PruneInstalls(
        self, request: pb.PruneInstallsRequest, context: object
    ) -> pb.PruneInstallsResponse:
        count = await self._installer.prune(
            ids=request.ids,
            states=convert.states_of(request.states),
            age_s=to_seconds(request.min_age),
        )
        return pb.PruneInstallsResponse(pruned_count=count)

    async def WatchInstalls(  # type: ignore[override]  # frames are written to the context
        self, request: pb.WatchInstallsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        if request.until_ended and not request.ids:
            raise FieldInvalidException(
                "until_ended takes ids: a watch of all jobs has no end.",
                violations=[FieldViolation("ids", "must be set for until_ended")],
            )
        watch = self._hub.watch(
            resume_token=request.resume_token,
            matches=_filter(frozenset(request.ids), dict(request.labels)),
            snapshot=self._snapshot,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=to_seconds(request.bookmark_interval),
        )
        until = until_ended(request.ids, self._installer.last_changes) if request.until_ended else None
        await stream_frames(context, watch, convert.watch_response, until=until)

    async def WaitInstalls(self, request: pb.WaitInstallsRequest, context: object) -> pb.WaitInstallsResponse:
        asked = to_seconds(request.timeout) if request.HasField("timeout") else None
        jobs = await self._installer.wait(request.ids, current_call().patience(asked))
        return pb.WaitInstallsResponse(
            installs=fitting(itertools.starmap(convert.install_message, jobs)),
            done=all(job.state.final for job, _ in jobs),
        )

    async def ProbeModel(self, request: pb.ProbeModelRequest, context: object) -> pb.ProbeModelResponse:
        overrides = convert.overrides_of(request.overrides)
        found = await self._installer.probe(request.path, overrides, current_call().principal)
        return pb.ProbeModelResponse(result=convert.probe_message(found, overrides))

    async def CheckModels(
        self, request: check_pb2.CheckModelsRequest, context: object
    ) -> check_pb2.CheckModelsResponse:
        look = await self._presence.check(request.keys)
        return check_pb2.CheckModelsResponse(
            checked_count=look.checked_count,
            missing_keys=look.missing_keys[:_MAX_MISSING],
            changed_count=look.changed_count,
        )

    async def UninstallModel(
        self, request: pb.UninstallModelRequest, context: object
    ) -> pb.UninstallModelResponse:
        if request.files == pb.UNINSTALL_FILES_ANY_ALLOWED_ROOT:
            need_role(current_call(), "files", ADMIN)
        done = await self._installer.uninstall(
            request.key,
            convert.policy_of(request.files),
            request.etag,
            validate_only=request.validate_only,
            force=request.force,
        )
        return pb.UninstallModelResponse(
            deleted_paths=next(iter(chunked(done.deleted_paths, _bytes, _MAX_PATHS, _MAX_PATHS_BYTES)), []),
            deleted_count=len(done.deleted_paths),
            deleted_bytes=done.deleted_bytes,
            revision=done.revision,
            lease_ids=[lease.id for lease in done.leases or ()],
            leases_known=done.leases is not None,
            shared_files=[pb.SharedFile(path=path, keys=keys) for path, keys in done.shared[:_MAX_SHARED]],
        )

    async def RelinkModel(
        self, request: relink_pb2.RelinkModelRequest, context: object
    ) -> relink_pb2.RelinkModelResponse:
        model = await self._installer.relink(
            request.key,
            request.path,
            current_call().principal,
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return relink_pb2.RelinkModelResponse(model=Model.FromString(model.message))

    async def _message(self, job_id: int) -> install_pb2.Install:
        return convert.install_message(*await self._installer.get(job_id))

    def _snapshot(self, conn: Connection) -> list[tuple[str, install_pb2.Install]]:
        return [(id_, install_pb2.Install.FromString(data)) for id_, data in self._store.snapshot(conn)]


def _filter(ids: frozenset[int], labels: Mapping[str, str]) -> Callable[[install_pb2.Install], bool] | None:
    """Which jobs a watch tells of; None for all."""
    if not ids and not labels:
        return None
    return lambda install: (not ids or install.id in ids) and have(install.labels, labels)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _mark(request: pb.ImportModelRequest) -> bytes:
    """What a request_id stands for; the URL counts without its secrets."""
    public = pb.ImportModelRequest()
    public.CopyFrom(request)
    if public.source.url:
        public.source.url = shown(public.source.url)
    return fingerprint(public)
