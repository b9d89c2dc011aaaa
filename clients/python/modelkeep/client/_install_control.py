"""What is done to installs that exist, and models that are registered or installed in one call."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelkeep.client._install_jobs import InstallStatus, ModelInstallJob
from modelkeep.client._transport import Peer
from modelkeep.configs.overrides import overrides_of
from modelkeep.exceptions import CancelledException, DeadlineExceededException
from modelkeep.install.v1 import check_pb2, control_pb2, install_pb2, paths_pb2
from modelkeep.install.v1 import install_service_pb2 as pb
from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceStub
from modelkeep.messages import made
from modelkeep.values import absolute

if TYPE_CHECKING:
    from modelkeep.install.v1.install_service_pb2_grpc import InstallServiceAsyncStub


class InstallControl(abc.ABC):
    """The part of `AsyncModelInstall` that controls jobs, and that hides them behind one call.

    Args:
        peer: The install service.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @property
    def _stub(self) -> InstallServiceAsyncStub:
        return InstallServiceStub(self._peer.channel)

    @abc.abstractmethod
    def _live(self, message: install_pb2.Install) -> ModelInstallJob:
        """The live object of a job if there is one, brought up to date; else a new one."""

    @abc.abstractmethod
    async def wait_for_job(
        self, job: ModelInstallJob | int, timeout: float | None = None, *, ended: bool = False
    ) -> ModelInstallJob:
        """Wait until one job has ended, or waits for a caller."""

    # -- paths --------------------------------------------------------------------------------------------

    async def register_path(
        self, model_path: str | os.PathLike[str], config: Mapping[str, Any] | None = None
    ) -> str:
        """Register the model at a path where it lies; answers with its key when that is done.

        A path that is registered already answers with the key of its model. No download is waited for.

        Args:
            model_path: A file or folder; a relative path is taken from the current folder.
            config: Config fields that win over what the probe finds.

        Raises:
            SourceNotFoundException: There is no such path.
            ForbiddenPathException: The path is outside the folders that may be imported from.
            InvalidModelException: What lies there is no model that can be told.
            InvalidModelConfigException: `config` has a field or value that such a model has not.
            InstallInProgressException: The path is being installed with other arguments.
            CancelledException: Somebody cancelled the job that did it.
        """
        request = made(
            paths_pb2.RegisterPathRequest,
            path=str(absolute(model_path)),
            overrides=overrides_of(config),
        )
        try:
            return (await self._peer.call(self._stub.RegisterPath, request)).key
        except DeadlineExceededException as error:
            return await self._key_at_last(error)

    async def install_path(
        self,
        model_path: str | os.PathLike[str],
        config: Mapping[str, Any] | None = None,
        *,
        move: bool = False,
    ) -> str:
        """Copy the model at a path into models_dir, or move it, and register it there; answers with its key.

        Args:
            model_path, config: As of :meth:`register_path`.
            move: Whether it goes from its place when it is registered.

        Raises:
            DiskFullException: There is no room for the copy.
            ModelkeepError: As :meth:`register_path`.
        """
        request = made(
            paths_pb2.InstallPathRequest,
            path=str(absolute(model_path)),
            overrides=overrides_of(config),
            move=move,
        )
        try:
            return (await self._peer.call(self._stub.InstallPath, request)).key
        except DeadlineExceededException as error:
            return await self._key_at_last(error)

    async def check_models(self, keys: Sequence[str] = (), *, timeout: float | None = None) -> list[str]:
        """Look at once whether models are where their records say; the records then tell (``missing_time``).

        Args:
            keys: Only these models, at most 1,000; none: all.
            timeout: Seconds that it may take; the client's own time-out by default.

        Returns:
            Keys of those whose files are gone: the first 1,000.
        """
        request = made(check_pb2.CheckModelsRequest, keys=keys)
        answer = await self._peer.call(self._stub.CheckModels, request, timeout=timeout)
        return list(answer.missing_keys)

    async def _key_at_last(self, error: DeadlineExceededException) -> str:
        """The key that a job ends with which goes on after the call's deadline."""
        if not error.metadata.get("id"):
            raise error
        job = await self.wait_for_job(int(error.metadata["id"]))
        if job.status is InstallStatus.COMPLETED:
            return job.model_key
        raise job.exception or CancelledException(f"Install {job.id} is {job.status.value}.")

    # -- jobs ---------------------------------------------------------------------------------------------

    async def get_job_by_id(self, id: int) -> ModelInstallJob:
        """The job with a number.

        Raises:
            UnknownJobIDException: There is none.
        """
        answer = await self._peer.call(self._stub.GetInstall, made(pb.GetInstallRequest, id=id))
        return self._live(answer.install)

    async def pause_job(self, job: ModelInstallJob | int) -> ModelInstallJob:
        """Pause a job that has not ended; it stands still, also after a restart, until :meth:`resume_job`.

        Its download keeps its bytes; a copy of a local model begins anew afterwards.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: It has ended, or is being cancelled.
        """
        request = made(control_pb2.PauseInstallRequest, id=number_of(job))
        answer = await self._peer.call(self._stub.PauseInstall, request)
        return self._live(answer.install)

    async def resume_job(
        self, job: ModelInstallJob | int, access_token: str | None = None, source_url: str | None = None
    ) -> ModelInstallJob:
        """Let a paused job go on where it stopped, also one that waits for a token or an address.

        Args:
            job: The job, or its number.
            access_token: A token anew, for a job that waits for one.
            source_url: The address anew, for a job that lost its secrets, or whose address has run out.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: It has ended, or is being cancelled.
            TokenRequiredException: It lacks secrets: its `metadata` says in "needs" which.
            FieldInvalidException: The address is another source's.
        """
        request = made(
            control_pb2.ResumeInstallRequest,
            id=number_of(job),
            access_token=access_token or "",
            source_url=source_url or "",
        )
        answer = await self._peer.call(self._stub.ResumeInstall, request)
        return self._live(answer.install)

    async def retry_job(
        self, job: ModelInstallJob | int, access_token: str | None = None, source_url: str | None = None
    ) -> ModelInstallJob:
        """Make a job that failed or was cancelled anew, from what it kept; answers with the new one.

        Args:
            job: The job, or its number.
            access_token: A token anew, for a job that had one.
            source_url: The address anew, for a job whose address had secrets, or has run out.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: It has not ended, or is completed.
            TokenRequiredException: It lacks secrets: its `metadata` says in "needs" which.
            FieldInvalidException: The address is another source's.
        """
        request = made(
            control_pb2.RetryInstallRequest,
            ids=[number_of(job)],
            access_token=access_token or "",
            source_url=source_url or "",
        )
        answer = await self._peer.call(self._stub.RetryInstall, request)
        return self._live(answer.installs[0])

    async def retry_failed_jobs(self) -> list[ModelInstallJob]:
        """Make all jobs anew that failed and were not made anew yet; answers with the new ones.

        Those that lack secrets are left out; see :meth:`retry_job`.
        """
        request = made(control_pb2.RetryInstallRequest, all_failed=True)
        answer = await self._peer.call(self._stub.RetryInstall, request)
        return [self._live(message) for message in answer.installs]

    async def delete_job(self, job: ModelInstallJob | int) -> ModelInstallJob:
        """Forget a job, whatever its status; answers with it as it was last. A model that it made stays.

        One that has not ended is cancelled first, and what it staged or kept goes.

        Raises:
            UnknownJobIDException: There is no such job.
            DeadlineExceededException: It has not ended in time; it is cancelled.
        """
        request = made(control_pb2.DeleteInstallRequest, id=number_of(job))
        answer = await self._peer.call(self._stub.DeleteInstall, request)
        return self._live(answer.install)

    async def cancel_job(self, job: ModelInstallJob | int) -> ModelInstallJob:
        """Cancel a job; it ends soon, in status cancelled, or completed if its record was written before.

        Raises:
            UnknownJobIDException: There is no such job.
            WrongStateException: It is completed or has failed.
        """
        request = made(pb.CancelInstallRequest, id=number_of(job))
        answer = await self._peer.call(self._stub.CancelInstall, request)
        return self._live(answer.install)


def number_of(job: ModelInstallJob | int) -> int:
    """The number of a job that is given as it is or by that."""
    return job if isinstance(job, int) else job.id
