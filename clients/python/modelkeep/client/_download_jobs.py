"""Download jobs under the original's names: what to fetch, where to, and how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from modelkeep.client._values import absolute, is_url, seconds, state_of
from modelkeep.configs.problems import violations_of
from modelkeep.download.v1 import download_pb2
from modelkeep.exceptions import FieldInvalidException
from modelkeep.messages import made
from modelkeep.rpc import exception_of

#: Called with the job on each event; what it returns is ignored, unless it is a coroutine function.
DownloadEventHandler: TypeAlias = Callable[[Any], Any]

DEFAULT_PRIORITY: Final = 10


class DownloadJobStatus(StrEnum):
    """Where a download stands."""

    IDLE = "idle"
    ENQUEUED = "enqueued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


#: Nothing will happen to such a job any more.
ENDED: Final = frozenset({DownloadJobStatus.COMPLETED, DownloadJobStatus.ERROR, DownloadJobStatus.CANCELLED})
#: The queue is at work on such a job.
ACTIVE: Final = frozenset({DownloadJobStatus.ENQUEUED, DownloadJobStatus.RUNNING})


class DownloadJobBase(BaseModel):
    """A download job. Once submitted it follows its job in the service; do not write its fields then."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    id: int = Field(0, description="Number of the job, from 1; 0 before it is submitted.")
    priority: int = Field(DEFAULT_PRIORITY, description="Lower runs first.")
    source: Any = Field(description="Where the bytes come from.")
    destination: Path = Field(description="A file, or a folder that the file goes into.")
    filename: str | None = Field(None, description="Name of the file inside the folder `destination`.")
    destination_is_folder: bool = Field(
        False, description="Whether the destination is a folder even if it does not exist yet."
    )
    status: DownloadJobStatus = Field(DownloadJobStatus.IDLE, description="Where the job stands.")
    event_handlers: list[DownloadEventHandler] = Field(
        default_factory=list, exclude=True, repr=False, description="Called on each event, in order."
    )
    job_started: float | None = Field(None, description="When it first ran, seconds since the epoch.")
    job_ended: float | None = Field(None, description="When it ended, seconds since the epoch.")
    job_sequence: int | None = Field(None, description="Number at which it was last taken off the queue.")
    preserve_partial_downloads: bool = Field(
        False, description="Whether the partial file stays after an error."
    )
    expected_sha256: str | None = Field(None, description="Hash that the file must have.")
    labels: dict[str, str] = Field(default_factory=dict, description="Pairs of texts to find the job by.")
    error: Exception | None = Field(None, description="Why it failed, or waits.")
    path: Path | None = Field(None, description="The file, once its name is known.")

    _message: download_pb2.Download = PrivateAttr(default_factory=download_pb2.Download)
    _owner: Any = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _see_slash(cls, values: Any) -> Any:
        """A destination that ends with "/" is a folder; a Path would forget that."""
        if isinstance(values, dict):
            destination = values.get("destination")
            if isinstance(destination, str) and destination.endswith("/"):
                return {"destination_is_folder": True, **values}
        return values

    @property
    def message(self) -> download_pb2.Download:
        """The job as the service described it last."""
        return self._message

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.status in ENDED

    def add_event_handler(self, handler: DownloadEventHandler) -> None:
        """Add a handler after those that the job has."""
        self.event_handlers.append(handler)

    def clear_event_handlers(self) -> None:
        """Take all handlers of the job away; the queue's own stay."""
        self.event_handlers.clear()

    def update(self, message: download_pb2.Download) -> None:
        """Take over what the service says now."""
        self._message = message
        self.id = message.id
        self.priority = message.priority
        self.status = status_of(message)
        self.job_started = seconds(message.start_time)
        self.job_ended = seconds(message.end_time)
        self.job_sequence = message.sequence or None
        self.preserve_partial_downloads = message.preserve_partial
        self.expected_sha256 = message.expected_sha256 or None
        self.labels = dict(message.labels)
        self.error = exception_of(message.error) if message.HasField("error") else None
        self.path = Path(message.path) if message.path else None

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        return made(download_pb2.DownloadSource, url=str(self.source))

    def destination_text(self) -> str:
        """The destination on the wire: absolute, with "/" at the end for a folder."""
        text = str(absolute(self.destination))
        return f"{text}/" if self.destination_is_folder and not text.endswith("/") else text


class DownloadJobPath(DownloadJobBase):
    """Moves a local file or folder, or copies it."""

    source: Path = Field(description="A file or folder on the service's host.")
    keep_source: bool = Field(False, description="Copy, and leave the source; False: move.")

    def source_message(self) -> download_pb2.DownloadSource:
        """The source on the wire."""
        local = made(download_pb2.LocalPath, path=str(absolute(self.source)), move=not self.keep_source)
        return made(download_pb2.DownloadSource, local_path=local)


class DownloadJobRemoteSource(DownloadJobBase):
    """Fetches from another host."""

    source: str | AnyHttpUrl = Field(description="An http or https address.")
    bytes: int = Field(0, description="Bytes downloaded so far.")
    total_bytes: int = Field(0, description="Bytes to download; 0 while unknown.")
    access_token: Any = Field(None, exclude=True, repr=False, description="Token for the source's host.")

    def update(self, message: download_pb2.Download) -> None:
        """Take over what the service says now."""
        super().update(message)
        self.bytes = message.progress.bytes_done
        self.total_bytes = message.progress.bytes_total


class DownloadJobURL(DownloadJobRemoteSource):
    """Fetches from an address that is checked when the job is made."""

    source: AnyHttpUrl = Field(description="An http or https address.")


def make_job(source: Any, **fields: Any) -> DownloadJobBase:
    """A job of the class that fits the source.

    Raises:
        FieldInvalidException: The source is written as an address and is none, or a field is bad.
    """
    cls = DownloadJobURL if is_url(source) else DownloadJobPath
    value = str(source) if is_url(source) else os.fspath(source)
    try:
        return cls(source=value, **fields)
    except ValidationError as error:
        raise FieldInvalidException(
            "This is no valid download job.", violations=violations_of(error)
        ) from None


def job_of(message: download_pb2.Download) -> DownloadJobBase:
    """The object of a job that another client made."""
    cls: type[DownloadJobBase]
    if message.source.HasField("local_path"):
        cls, source = DownloadJobPath, message.source.local_path.path
    else:
        cls, source = DownloadJobRemoteSource, message.source.url
    job = cls(source=source, destination=message.destination)
    job.update(message)
    return job


def is_active(message: download_pb2.Download) -> bool:
    """Whether the queue is at work on a job: one that is paused may be on its way to cancelled."""
    return status_of(message) in ACTIVE or message.stage == download_pb2.DOWNLOAD_STAGE_STOPPING


def status_of(message: download_pb2.Download) -> DownloadJobStatus:
    """The state; one of a newer service counts as running."""
    return state_of(download_pb2.DownloadState, message.state, DownloadJobStatus)
