"""InstallService on the wire: a few lines a method."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc.aio

from modelkeep.install.v1 import (
    check_pb2,
    control_pb2,
    install_pb2,
    install_service_pb2_grpc,
    paths_pb2,
    relink_pb2,
)
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.model.v1.model_pb2 import Model
from modelkeep_common.auth import ADMIN
from modelkeep_common.calls import current_call
from modelkeep_common.calls.authentication import need_role
from modelkeep_common.idempotency import fingerprint
from modelkeep_common.labels import have
from modelkeep_common.paging import AskedPage, fitting
from modelkeep_common.sqlite import Connection
from modelkeep_common.urls import shown
from modelkeep_common.watch import WatchHub, stream_frames, until_ended
from modelkeep_common.watch.frames import chunked
from modelkeep_common.wire import to_seconds

from . import convert
from .domain.requests import Caller, ImportRequest, JobFilter
from .installer import Installer
from .invokeai.course import InvokeAIImports
from .invokeai.wire import InvokeAIMethods
from .presence import Presence
from .scan.scanner import Scanner
from .scan.wire import ScanMethods
from .store import InstallStore
from .waiting import delete_install, install_at_once

#: How much of what was deleted an answer names.
_MAX_PATHS, _MAX_PATHS_BYTES = 1000, 1 << 20
_MAX_SHARED = 1000
_MAX_MISSING = 1000
#: How long a call waits at most for the end of a job, and for a job to stand still.
_PATIENCE_S, _PAUSE_PATIENCE_S = 60.0, 10.0


class InstallServicer(InvokeAIMethods, ScanMethods, install_service_pb2_grpc.InstallServiceServicer):
    """The methods are those of the .proto, which says what they do.

    Args:
        installer: The core.
        store: For the snapshots of a watch, which are read inside the hub's transaction.
        hub: For watches.
        presence: Who looks whether models are where their records say.
        scanner: Who looks for models that have no record.
        invokeai: Who registers what an InvokeAI has.
    """

    def __init__(
        self,
        installer: Installer,
        store: InstallStore,
        hub: WatchHub[install_pb2.Install],
        presence: Presence,
        scanner: Scanner,
        invokeai: InvokeAIImports,
    ) -> None:
        self._installer = installer
        self._scanner = scanner
        self._invokeai = invokeai
        self._presence = presence
        self._store = store
        self._hub = hub

    async def ImportModel(self, request: pb.ImportModelRequest, context: object) -> pb.ImportModelResponse:
        call = current_call()
        caller = Caller(request.request_id, _mark(request), call.principal, call.method)
        if request.move:
            need_role(call, "move", ADMIN)
        wanted = convert.import_request_of(request)
        if request.validate_only:
            job, record = await self._installer.rehearse(wanted, caller)
            plan = None if job.plan is None else convert.plan_message(job.plan)
            return pb.ImportModelResponse(install=convert.install_message(job, record), plan=plan)
        job, existing = await self._installer.import_model(wanted, caller)
        return pb.ImportModelResponse(install=await self._message(job.id), existing=existing)

    async def RegisterPath(
        self, request: paths_pb2.RegisterPathRequest, context: object
    ) -> paths_pb2.RegisterPathResponse:
        install = await self._at_once(request, inplace=True)
        return paths_pb2.RegisterPathResponse(key=install.model_key, install=install)

    async def InstallPath(
        self, request: paths_pb2.InstallPathRequest, context: object
    ) -> paths_pb2.InstallPathResponse:
        if request.move:
            need_role(current_call(), "move", ADMIN)
        install = await self._at_once(request, inplace=False, move=request.move)
        return paths_pb2.InstallPathResponse(key=install.model_key, install=install)

    async def GetInstall(self, request: pb.GetInstallRequest, context: object) -> pb.GetInstallResponse:
        return pb.GetInstallResponse(install=await self._message(request.id))

    async def ListInstalls(self, request: pb.ListInstallsRequest, context: object) -> pb.ListInstallsResponse:
        asked = AskedPage(request, int)
        jobs, token = await self._installer.page(
            JobFilter(request.source_contains, convert.states_of(request.states), dict(request.labels)),
            before=asked.after,
            limit=asked.limit,
        )
        page, more = asked.of(jobs, lambda row: convert.install_message(*row), lambda message: message.id)
        # It covers what changes while the other pages are read.
        first = token if not request.page_token else ""
        return pb.ListInstallsResponse(installs=page, next_page_token=more, resume_token=first)

    async def CancelInstall(
        self, request: pb.CancelInstallRequest, context: object
    ) -> pb.CancelInstallResponse:
        job = await self._installer.cancel(request.id)
        return pb.CancelInstallResponse(install=await self._message(job.id))

    async def PauseInstall(
        self, request: control_pb2.PauseInstallRequest, context: object
    ) -> control_pb2.PauseInstallResponse:
        patience = current_call().patience(_PAUSE_PATIENCE_S)
        await self._installer.control.pause(request.id, patience)
        return control_pb2.PauseInstallResponse(install=await self._message(request.id))

    async def ResumeInstall(
        self, request: control_pb2.ResumeInstallRequest, context: object
    ) -> control_pb2.ResumeInstallResponse:
        await self._installer.control.resume(request.id, request.access_token, request.source_url)
        return control_pb2.ResumeInstallResponse(install=await self._message(request.id))

    async def RetryInstall(
        self, request: control_pb2.RetryInstallRequest, context: object
    ) -> control_pb2.RetryInstallResponse:
        call, retrying = current_call(), self._installer.retrying
        jobs = await retrying.meant(request.ids, all_failed=request.all_failed)
        if any(job.move for job in jobs):
            need_role(call, "ids", ADMIN)
        mark = fingerprint(request, without=("access_token", "source_url"))
        caller = Caller(request.request_id, mark, call.principal, call.method)
        made, left_out = await retrying.retry(
            jobs, request.access_token, request.source_url, caller, lenient=request.all_failed
        )
        return control_pb2.RetryInstallResponse(
            installs=fitting([await self._message(job_id) for job_id in made]), needs_secrets_ids=left_out
        )

    async def DeleteInstall(
        self, request: control_pb2.DeleteInstallRequest, context: object
    ) -> control_pb2.DeleteInstallResponse:
        patience = current_call().patience(_PATIENCE_S)
        last = await delete_install(self._installer, request.id, patience)
        return control_pb2.DeleteInstallResponse(install=convert.install_message(*last))

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
        until = until_ended(request, self._installer.last_changes)
        watch = self._hub.watch(
            resume_token=request.resume_token,
            matches=_filter(frozenset(request.ids), dict(request.labels)),
            snapshot=self._snapshot,
            skip_snapshot=request.skip_snapshot,
            bookmark_interval_s=to_seconds(request.bookmark_interval),
        )
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

    async def _at_once(
        self,
        request: paths_pb2.RegisterPathRequest | paths_pb2.InstallPathRequest,
        *,
        inplace: bool,
        move: bool = False,
    ) -> install_pb2.Install:
        call = current_call()
        caller = Caller(request.request_id, fingerprint(request), call.principal, call.method)
        wanted = ImportRequest(
            local_path=request.path,
            inplace=inplace,
            move=move,
            overrides=convert.overrides_of(request.overrides),
        )
        return convert.install_message(
            *await install_at_once(self._installer, wanted, caller, call.patience(_PATIENCE_S))
        )

    async def _message(self, job_id: int) -> install_pb2.Install:
        return convert.install_message(*await self._installer.get(job_id))

    async def _snapshot(self, conn: Connection) -> AsyncIterator[tuple[str, install_pb2.Install]]:
        for id_, data in self._store.snapshot(conn):
            yield id_, install_pb2.Install.FromString(data)


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
    if public.source.HasField("remote"):
        public.source.remote.source = shown(public.source.remote.source)
    return fingerprint(public)
