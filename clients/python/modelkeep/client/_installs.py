"""InstallService under the original's names: any source in, a registered model out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from modelkeep.client._install_control import InstallControl, number_of
from modelkeep.client._install_jobs import (
    ENDED,
    SETTLED,
    InstallStatus,
    ModelInstallJob,
    is_remote,
    source_of,
    status_of,
)
from modelkeep.client._install_requests import (
    FILES,
    Reuse,
    Uninstalled,
    UninstallFiles,
    import_request,
    source_message,
)
from modelkeep.client._invokeai import InvokeAIImport
from modelkeep.client._jobs import Jobs
from modelkeep.client._scans import ModelScans
from modelkeep.client._tracker import EventThread, JobTracker
from modelkeep.client._transport import Peer
from modelkeep.client._watch import WatchFrame
from modelkeep.configs import AnyModelConfig
from modelkeep.configs.overrides import overrides_of
from modelkeep.configs.wire import from_model
from modelkeep.exceptions import UnknownJobIDException
from modelkeep.install.v1 import install_pb2, relink_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceStub
from modelkeep.messages import duration, made
from modelkeep.values import absolute

#: Name of the channel on which an event bus gets what happens to models, as in the original.
MODEL_EVENT: Final = "model_event"
_Tracker: TypeAlias = JobTracker[ModelInstallJob, install_pb2.Install]


class EventBus(Protocol):
    """What takes events: the original's EventServiceBase is one."""

    def dispatch(self, event_name: str, payload: Any) -> None: ...


class AsyncModelInstall(InstallControl, ModelScans, InvokeAIImport):
    """A one-stop shop: download, probe, hash, move and register, as jobs that outlive this client.

    Job objects that :meth:`import_model` returned follow their jobs by themselves.

    Args:
        peer: The install service.
        events: The thread that the event bus is called on.
        event_bus: Gets ``dispatch("model_event", {"event": name, "data": payload})`` for the events
            model_install_started, model_install_progress (remote sources only), model_install_completed
            and model_install_error of every job that changes while this client follows.
    """

    def __init__(self, peer: Peer, events: EventThread, event_bus: EventBus | None = None) -> None:
        super().__init__(peer)
        self._events = events
        self._event_bus = event_bus
        self._jobs: Jobs[ModelInstallJob, install_pb2.Install] = Jobs(
            peer,
            lambda to: InstallServiceStub(to).WatchInstalls,
            lambda ids: made(pb.WatchInstallsRequest, ids=ids),
            ModelInstallJob,
            self._tell,
        )
        self._own: dict[Any, ModelInstallJob] = {}

    @property
    def event_bus(self) -> EventBus | None:
        """What gets the events; None without one."""
        return self._event_bus

    def _live(self, message: install_pb2.Install) -> ModelInstallJob:
        return self._jobs.of(message)

    # -- jobs ---------------------------------------------------------------------------------------------

    async def import_model(
        self,
        source: str | os.PathLike[str] | Any,
        inplace: bool = True,
        *,
        variant: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        config: Mapping[str, Any] | None = None,
        access_token: str | None = None,
        expected_sha256: str | None = None,
        priority: int | None = None,
        reuse: Reuse = "source",
        labels: Mapping[str, str] | None = None,
        move: bool = False,
    ) -> ModelInstallJob:
        """Install a model; answers at once with the job.

        The same source with the same arguments answers with the same job, while it has not ended. A model
        that was installed from it, and is as it was then, completes the job at once (`installed_already`).

        Args:
            source: A safetensors file or a diffusers folder by its path, a repository ("owner/name",
                "owner/name:subfolder"), an address at Hugging Face or Civitai, or that of any file. Relative
                paths are of the current folder; a path that exists beats a repository spelled alike.
            inplace: Whether a local model stays where it is; False: a copy goes into models_dir.
            variant: Of a repository: "fp16", "onnx", "openvino", or what else stands in its files' names.
            subfolder: Folder or file of a repository; one that the source has in it wins.
            revision: Branch, tag or commit of a repository; the same.
            config: Config fields that win over what the probe finds, such as name or prediction_type.
            access_token: Token for the source's host.
            expected_sha256: Hash that the downloaded file must have.
            priority: Of the download; lower runs first. Default 10.
            reuse: What to take in place of another model: one from the same "source", or also one with
                the same "content", so that there is one copy; "never": another one is made.
            labels: For the caller's own use; the job, its download and the model that it makes get them.
            move: Whether a local model goes into models_dir, and from its place when that is done.

        Raises:
            InstallInProgressException: The source is being installed with other arguments.
            SourceNotFoundException: There is no such path.
            ForbiddenPathException: The path is outside the folders that may be imported from.
            InvalidModelConfigException: `config` has a field or value that no model has.
        """
        request = import_request(
            source,
            inplace=inplace,
            move=move,
            config=config,
            access_token=access_token,
            expected_sha256=expected_sha256,
            priority=priority,
            reuse=reuse,
            variant=variant,
            subfolder=subfolder,
            revision=revision,
            labels=labels,
        )
        tracker = await self._jobs.following()
        async with tracker.creating():
            answer = await self._peer.call(self._stub.ImportModel, request)
            fresh = ModelInstallJob(answer.install, source=source)
            if config is not None:
                fresh.config_in = dict(config)
            job = tracker.adopt(answer.install, fresh)
        self._own[source] = job
        return job

    install_model = import_model

    async def rehearse(
        self,
        source: str | os.PathLike[str] | Any,
        inplace: bool = True,
        *,
        variant: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        config: Mapping[str, Any] | None = None,
        access_token: str | None = None,
        expected_sha256: str | None = None,
        reuse: Reuse = "source",
        move: bool = False,
    ) -> ModelInstallJob:
        """What :meth:`import_model` would do, without doing it: the job has no number.

        `message.probe` says what a local model is, `plan` what a hub's source comes to, with its files; the
        rest where it would lie, what would be copied or fetched (`total_bytes`), and what is there.

        Raises:
            ModelkeepError: As :meth:`import_model`, or as the job would fail.
        """
        request = import_request(
            source,
            inplace=inplace,
            move=move,
            config=config,
            expected_sha256=expected_sha256,
            reuse=reuse,
            variant=variant,
            subfolder=subfolder,
            revision=revision,
            access_token=access_token,
        )
        request.validate_only = True
        answer = await self._peer.call(self._stub.ImportModel, request)
        if answer.HasField("plan"):
            answer.install.plan.CopyFrom(answer.plan)
        return ModelInstallJob(answer.install, source=source)

    async def wait_for_installs(self, timeout: float | None = None) -> dict[Any, ModelInstallJob]:
        """Wait for the jobs that this client began; if it began none, for all that are under way.

        A job that is paused, since it needs something of a caller, is not waited for.

        Args:
            timeout: Longest wait in seconds; None: as long as it takes.

        Returns:
            Source → job; the sources are the caller's own objects.

        Raises:
            DeadlineExceededException: Some have not ended in time.
        """
        tracker = await self._jobs.following()
        own = dict(self._own)
        # of several that are shown alike, all are waited for, and the newest is told
        waited = list(own.values()) or [job for _, job in sorted(tracker.jobs.items()) if not job.settled]
        await self._settle(tracker, waited, timeout)
        return own or {job.source: job for job in waited}

    async def wait_for_job(
        self, job: ModelInstallJob | int, timeout: float | None = None, *, ended: bool = False
    ) -> ModelInstallJob:
        """Wait until one job has ended, or waits for a caller.

        Args:
            job: The job, or its number.
            timeout: Longest wait in seconds.
            ended: Wait also while it is paused, as one that was cancelled may still be.

        Raises:
            UnknownJobIDException: There is no such job.
            DeadlineExceededException: It has not ended in time.
        """
        waited = await self.get_job_by_id(job) if isinstance(job, int) else job
        tracker = await self._jobs.following()
        live = tracker.jobs.get(waited.id, waited)
        await self._settle(tracker, [live], timeout, ENDED if ended else SETTLED)
        return live

    async def list_jobs(
        self, source: str | os.PathLike[str] | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[ModelInstallJob]:
        """The jobs whose source contains a text, newest first; all without one.

        Of an address, its secrets aside: jobs that differ in what is hidden are shown alike.

        Args:
            source: The text.
            labels: Only jobs that have all of these labels, each with exactly this value.
        """
        request = made(
            pb.ListInstallsRequest,
            source_contains=os.fspath(source) if source is not None else "",
            labels=labels,
        )
        pages = self._peer.pages(self._stub.ListInstalls, request)
        return [self._jobs.of(message) async for page in pages for message in page.installs]

    async def get_job(self, source: str | os.PathLike[str] | Any) -> ModelInstallJob:
        """The newest job of a source.

        An address with secrets is known to the client that imported it. The services keep what is shown of
        it, and what is hidden may have named another model.

        Raises:
            UnknownJobIDException: There is none.
        """
        text = str(source_of(source_message(source)))
        found = [job for job in await self.list_jobs(text) if str(source_of(job.message.source)) == text]
        if source in self._own:
            with contextlib.suppress(UnknownJobIDException):  # pruned by another client
                found.append(await self.get_job_by_id(self._own[source].id))
        if not found:
            raise UnknownJobIDException(f"No install of {source} is known.")
        return max(found, key=lambda job: job.id)

    async def prune_jobs(
        self,
        jobs: Sequence[ModelInstallJob | int] = (),
        *,
        statuses: Collection[InstallStatus | str] = (),
        older_than: float = 0.0,
    ) -> int:
        """Forget jobs that have ended; answers how many. Models stay.

        Args:
            jobs: Only these, which must have ended; none: all.
            statuses: Only those that ended so, such as "error"; none: all.
            older_than: Only those that ended so many seconds ago, or longer.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: One of `jobs` has not ended.
        """
        request = made(
            pb.PruneInstallsRequest,
            ids=map(number_of, jobs),
            states=[f"INSTALL_STATE_{InstallStatus(status).name}" for status in statuses],
        )
        if older_than:
            request.min_age.CopyFrom(duration(older_than, "older_than"))
        answer = await self._peer.call(self._stub.PruneInstalls, request)
        self._own = {source: job for source, job in self._own.items() if not job.ended}
        return answer.pruned_count

    def watch(
        self, ids: Sequence[int] = (), *, resume_token: str = "", skip_snapshot: bool = False
    ) -> AsyncGenerator[WatchFrame[ModelInstallJob]]:
        """A snapshot of the jobs, then every change and progress; goes on by itself.

        Args:
            ids: Only these jobs; none: all.
            resume_token: Place to go on from, out of an earlier frame; empty: a snapshot first.
            skip_snapshot: Without a token: only changes from now on.
        """
        return self._jobs.watch(ids, resume_token, skip_snapshot)

    # -- models -------------------------------------------------------------------------------------------

    async def probe(
        self, path: str | os.PathLike[str], config: Mapping[str, Any] | None = None
    ) -> install_pb2.ProbeResult:
        """What a local file or folder holds, from its headers and configs. Changes nothing.

        Raises:
            SourceNotFoundException: There is no such path.
            InvalidModelException: It is damaged.
            UnsafeFormatException: Reading it could run code.
        """
        request = made(pb.ProbeModelRequest, path=str(absolute(path)), overrides=overrides_of(config))
        return (await self._peer.call(self._stub.ProbeModel, request)).result

    async def relink(
        self, key: str, path: str | os.PathLike[str], *, etag: str = "", validate_only: bool = False
    ) -> AnyModelConfig:
        """Say anew where a model is, after its files were moved; answers with the record.

        Args:
            key: The record's.
            path: What holds the model now; a relative path is taken from the current folder.
            etag: If not empty, the record's present one.
            validate_only: Look at the path, and change nothing.

        Raises:
            UnknownModelException: No record has this key.
            EtagMismatchException: The record changed since.
            FieldInvalidException: The path holds something else.
            SourceNotFoundException: Nothing is there.
            DuplicatePathException: Another record has the path.
        """
        request = made(
            relink_pb2.RelinkModelRequest,
            key=key,
            path=str(absolute(path)),
            etag=etag,
            validate_only=validate_only,
        )
        return from_model((await self._peer.call(self._stub.RelinkModel, request)).model)

    async def unregister(self, key: str, *, force: bool = False) -> None:
        """Delete a model's record; every file stays.

        Raises:
            UnknownModelException: No record has this key.
            ModelInUseException: A lease holds it, and `force` is not set.
        """
        await self.uninstall(key, "keep", force=force)

    async def delete(self, key: str, *, force: bool = False) -> list[Path]:
        """Delete a model's record, and its files if they are inside models_dir; answers what was deleted,
        at most 1,000 of them.

        Raises:
            UnknownModelException: No record has this key.
            ForbiddenPathException: The record points outside every allowed folder; nothing was deleted.
            ModelInUseException: A lease holds it, and `force` is not set.
        """
        return (await self.uninstall(key, "owned", force=force)).deleted_paths

    async def unconditionally_delete(self, key: str, *, force: bool = False) -> list[Path]:
        """Delete a model's record and its files, also outside models_dir; answers what was deleted,
        at most 1,000 of them.

        Raises:
            UnknownModelException: No record has this key.
            ForbiddenPathException: The record points outside every allowed folder; nothing was deleted.
            ModelInUseException: A lease holds it, and `force` is not set.
        """
        return (await self.uninstall(key, "any", force=force)).deleted_paths

    async def uninstall(
        self,
        key: str,
        files: UninstallFiles,
        *,
        etag: str = "",
        validate_only: bool = False,
        force: bool = False,
    ) -> Uninstalled:
        """Delete a model's record and, as said, its files; or only tell what that would delete.

        Args:
            key: The record's.
            files: "keep": every file stays; "owned": those inside models_dir go; "any": also those elsewhere.
            etag: If not empty, the record's present one.
            validate_only: Delete nothing.
            force: Also while leases hold the model: what is in use goes on working.

        Raises:
            UnknownModelException: No record has this key.
            EtagMismatchException: The record changed since.
            ForbiddenPathException: The record points outside every allowed folder; nothing was deleted.
            ModelInUseException: A lease holds it, and neither `force` nor `validate_only` is set.
        """
        request = made(
            pb.UninstallModelRequest,
            key=key,
            files=FILES[files],
            etag=etag,
            validate_only=validate_only,
            force=force,
        )
        answer = await self._peer.call(self._stub.UninstallModel, request)
        return Uninstalled(
            deleted_paths=[Path(path) for path in answer.deleted_paths],
            deleted_count=answer.deleted_count,
            deleted_bytes=answer.deleted_bytes,
            leases=list(answer.lease_ids),
            leases_known=answer.leases_known,
            shared={Path(file.path): list(file.keys) for file in answer.shared_files},
        )

    # -- inside -------------------------------------------------------------------------------------------

    async def start_events(self) -> None:
        """Begin to follow the jobs now, so that the event bus misses nothing."""
        await self._jobs.following()

    async def close(self) -> None:
        """Stop following. Jobs go on in the service."""
        await self._jobs.close()

    async def _settle(
        self,
        tracker: _Tracker,
        jobs: Iterable[ModelInstallJob],
        timeout: float | None,
        statuses: Collection[InstallStatus] = SETTLED,
    ) -> None:
        def settled(job: ModelInstallJob) -> bool:
            if job.id not in tracker.jobs:  # pruned meanwhile, so it has ended
                return True
            message = tracker.told(job.id)
            return message is not None and status_of(message) in statuses

        await tracker.until(lambda: all(map(settled, jobs)), timeout, "installs that have not ended")

    async def _tell(
        self,
        job: ModelInstallJob,
        before: install_pb2.Install | None,
        message: install_pb2.Install,
        first: bool,
    ) -> None:
        """Dispatch what a change means."""
        if self._event_bus is None or first:
            return
        was = InstallStatus.WAITING if before is None else status_of(before)
        now = status_of(message)
        if was is InstallStatus.WAITING and now not in (was, InstallStatus.CANCELLED):
            await self._dispatch("started", job)
        moved = before is not None and before.progress != message.progress
        if is_remote(message) and moved and message.progress.bytes_total:
            done, total = message.progress.bytes_done, message.progress.bytes_total
            await self._dispatch("progress", job, current_bytes=done, total_bytes=total)
        if now is was:
            return
        if now is InstallStatus.COMPLETED:
            await self._dispatch("completed", job, key=job.model_key)
        elif now in (InstallStatus.ERROR, InstallStatus.CANCELLED):
            error_type = job.error_type or "CancelledException"
            await self._dispatch(
                "error", job, error_type=error_type, error=job.error or "The install was cancelled."
            )

    async def _dispatch(self, name: str, job: ModelInstallJob, **payload: Any) -> None:
        assert self._event_bus is not None
        data = {"timestamp": int(time.time()), "source": str(job.source), **payload}
        event = {"event": f"model_install_{name}", "data": data}
        await self._events.run(self._event_bus.dispatch, MODEL_EVENT, event)
