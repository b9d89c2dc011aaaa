"""Install jobs: what the original's ModelInstallJob says."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from modelkeep.configs import AnyModelConfig
from modelkeep.configs.overrides import config_of
from modelkeep.configs.wire import from_model
from modelkeep.download.v1 import resolve_pb2
from modelkeep.exceptions import ModelkeepError
from modelkeep.hubs import Repository, hub_of
from modelkeep.install.v1 import install_pb2
from modelkeep.rpc import exception_of
from modelkeep.values import seconds, state_of


class InstallStatus(StrEnum):
    """Where an install stands: ``job.status == "completed"``."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


#: Nothing will happen to such a job any more.
ENDED: Final = frozenset({InstallStatus.COMPLETED, InstallStatus.ERROR, InstallStatus.CANCELLED})
#: Nothing will happen to such a job by itself.
SETTLED: Final = ENDED | {InstallStatus.PAUSED}


class ModelInstallJob:
    """An install job; an object that the client made follows its job.

    Attributes:
        id: Number of the job.
        status: Where it stands.
        source: What is installed: the caller's own object, else a Path, or a text of a remote one.
        config_in: What the caller asked to have in the record.
        config_out: The record; None before the install is completed.
        inplace: Whether a local model stays where it is.
        local_path: Where the model's files are; None before a remote model is there.
        error_type: Name of the exception that the job failed with, or waits with; None without one.
        error: Its text, for operators with more detail.
        message: The job as the service described it last.
    """

    def __init__(self, message: install_pb2.Install, *, source: Any = None) -> None:
        self.message = message
        self.status = status_of(message)
        self.source: Any = source_of(message.source) if source is None else source
        self.config_in: dict[str, Any] = {}
        self.config_out: AnyModelConfig | None = None
        self.update(message)

    def update(self, message: install_pb2.Install) -> None:
        """Take over what the service says now."""
        self.message = message
        self.id = message.id
        self.status = status_of(message)
        self.inplace = message.inplace
        self.local_path = Path(message.local_path) if message.local_path else None
        self.config_in = self.config_in or config_of(message.overrides)
        if message.HasField("model"):
            self.config_out = from_model(message.model)
        failed = message.HasField("error")
        self.error_type = exception_name(message) if failed else None
        self.error = (
            "\n".join(filter(None, (message.error.message, message.error.detail))) if failed else None
        )

    @property
    def model_key(self) -> str:
        """Key that the model has, or will have."""
        return self.message.model_key

    @property
    def retry_of(self) -> int | None:
        """Number of the job that this one is made anew of; None without one."""
        return self.message.retry_of_id or None

    @property
    def installed_already(self) -> bool:
        """Whether nothing was installed, since the model was there; `config_out` is that model, as it was."""
        return self.message.installed_already

    @property
    def same_content(self) -> list[str]:
        """Keys of other models with the same content, as far as is known."""
        return list(self.message.same_content_keys)

    @property
    def missing_content(self) -> list[str]:
        """Keys of models that had the same content, and whose files are gone."""
        return list(self.message.missing_content_keys)

    @property
    def plan(self) -> resolve_pb2.SourcePlan | None:
        """What a source at a hub came to; None before it was looked up, and of other sources.

        Its files are told by :meth:`AsyncModelInstall.rehearse` alone.
        """
        return self.message.plan if self.message.HasField("plan") else None

    @property
    def bytes(self) -> int:
        """Bytes downloaded or copied so far."""
        return self.message.progress.bytes_done

    @property
    def total_bytes(self) -> int:
        """Bytes to download or copy; 0 while unknown, or if nothing has to be."""
        return self.message.progress.bytes_total

    @property
    def job_started(self) -> float | None:
        """When it first ran, in seconds since the epoch."""
        return seconds(self.message.start_time)

    @property
    def job_ended(self) -> float | None:
        """When it ended, in seconds since the epoch."""
        return seconds(self.message.end_time)

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.status in ENDED

    @property
    def settled(self) -> bool:
        """Whether nothing more will happen by itself: it has ended, or waits for a caller."""
        return self.status in SETTLED

    @property
    def exception(self) -> ModelkeepError | None:
        """What the job failed with, or waits with, as an exception; None without one."""
        return exception_of(self.message.error) if self.message.HasField("error") else None

    def __repr__(self) -> str:
        return f"<ModelInstallJob {self.id} {self.status.value} {self.source}>"


def status_of(message: install_pb2.Install) -> InstallStatus:
    """The state; one of a newer service counts as running."""
    return state_of(install_pb2.InstallState, message.state, InstallStatus)


def exception_name(message: install_pb2.Install) -> str:
    """Name of the exception class that a job's error stands for."""
    return type(exception_of(message.error)).__name__


def source_of(message: install_pb2.InstallSource) -> Path | str:
    """A source as Python has it; of a hub's, the shortest spelling that the parts have."""
    if message.HasField("local_path"):
        return Path(message.local_path)
    return spelled(message.remote) if message.HasField("remote") else message.url


def spelled(remote: resolve_pb2.RemoteSource) -> str:
    """What a caller would write for a hub's source, its variant aside."""
    try:
        named = hub_of(remote.source)
    except ValueError:
        return remote.source
    if not isinstance(named, Repository):
        return remote.source
    id = named.id if "/" in named.id else f"hf:{named.id}"  # one of the oldest, which have no owner
    return Repository(id, named.path or remote.subfolder, named.revision or remote.revision).shown


def is_remote(message: install_pb2.Install) -> bool:
    """Whether the model is fetched from elsewhere."""
    return not message.source.HasField("local_path")
